import type { Requester } from "../../src/training/slot.ts";

/** Who asks for a training, and stays until it has ended. */
export const requester: Requester = { tenant: "acme", signal: new AbortController().signal };
