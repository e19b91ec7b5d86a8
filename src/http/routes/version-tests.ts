/** Tests the version of a job on its test set. The ledger calls it with a token for one job; it is not in /openapi.json. */
import { verifyVersionTestToken } from "../../jobs/token.ts";
import { VERSION_TEST_PATH } from "../../tenant/jobs/version-test.ts";
import { testJobVersion } from "../../training/version-test.ts";
import { type App, tenantRequest } from "../context.ts";
import { bearerToken } from "../middleware/auth.ts";
import { respond, respondError } from "../middleware/errors.ts";
import { getServerKeys } from "../middleware/keys.ts";

export function versionTestRoutes(app: App): void {
  app.post(`${VERSION_TEST_PATH}/:job/test`, async (c) => {
    const claims = verifyVersionTestToken(getServerKeys(c.env), bearerToken(c) ?? "");
    if (claims === null || claims.job !== c.req.param("job"))
      return respondError(c, {
        code: "invalid_api_key",
        message: "The token is missing or wrong, or that of another job.",
      });
    c.set("caller", { tenant: claims.tenant, keyId: "", scopes: [] });
    const work = testJobVersion(tenantRequest(c), claims.job);
    // If the ledger's object is lost meanwhile, the test still ends, and releases its slot.
    c.executionCtx.waitUntil(work);
    return respond(c, await work);
  });
}
