/**
 * Embeds a dataset's texts ahead of its trainings. The ledger calls it with a token for one dataset; it is not in
 * /openapi.json.
 */
import { verifyEmbeddingToken } from "../../jobs/token.ts";
import { EMBEDDING_PATH } from "../../tenant/data/embedding.ts";
import { embedAhead } from "../../training/embed-ahead.ts";
import { type App, tenantRequest } from "../context.ts";
import { bearerToken } from "../middleware/auth.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { getServerKeys } from "../middleware/keys.ts";

export function embeddingAheadRoutes(app: App): void {
  app.post(`${EMBEDDING_PATH}/:dataset/embed`, async (c) => {
    const claims = verifyEmbeddingToken(getServerKeys(c.env), bearerToken(c) ?? "");
    if (claims === null || String(claims.dataset) !== c.req.param("dataset"))
      return respondError(c, {
        code: "invalid_api_key",
        message: "The token is missing or wrong, or that of another dataset.",
      });
    c.set("caller", { tenant: claims.tenant, keyId: "", scopes: [] });
    const work = embedAhead(tenantRequest(c), claims.dataset);
    // If the ledger's object is lost meanwhile, what was begun is still recorded.
    c.executionCtx.waitUntil(work);
    return respond(c, await work);
  });
}
