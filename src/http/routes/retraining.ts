/** The training that a head's policy asks for. The ledger calls it with a token for one attempt; it is not in /openapi.json. */
import { verifyRetrainingToken } from "../../jobs/token.ts";
import { RETRAINING_PATH } from "../../tenant/heads/retraining.ts";
import { retrain } from "../../training/retrain.ts";
import { type App, tenantRequest } from "../context.ts";
import { bearerToken } from "../middleware/auth.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { getServerKeys } from "../middleware/keys.ts";

export function retrainingRoutes(app: App): void {
  app.post(`${RETRAINING_PATH}/:head/retrain`, async (c) => {
    const claims = verifyRetrainingToken(getServerKeys(c.env), bearerToken(c) ?? "");
    if (claims === null || claims.head !== c.req.param("head"))
      return respondError(c, {
        code: "invalid_api_key",
        message: "The token is missing or wrong, or that of another head.",
      });
    const { tenant, head, attempt } = claims;
    c.set("caller", { tenant, keyId: "", scopes: [] });
    const work = retrain(tenantRequest(c), head, attempt);
    // If the ledger's object is lost meanwhile, the training still ends, and releases its slot and its memory.
    c.executionCtx.waitUntil(work);
    return respond(c, await work);
  });
}
