// A Worker beside Graft's own, which passes all that Graft's fetches on to the proxy of outbound.ts. What the proxy refuses
// is an exception, as a host that cannot be reached is one, and not an answer of that host.
export default {
  async fetch(request, env) {
    const response = await env.PROXY.fetch(request);
    const refusal = response.headers.get("proxy-status");
    if (refusal !== null) throw new Error(refusal);
    return response;
  },
};
