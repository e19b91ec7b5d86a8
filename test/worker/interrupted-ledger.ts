import { env } from "cloudflare:workers";
import { Transactions } from "../../src/tenant/transactions.ts";

/** The ledger on a storage that breaks after so many transactions, as if its process had ended there. */
export function interruptedLedger(storage: DurableObjectStorage, transactions: number): Transactions {
  let left = transactions;
  const breaking = new Proxy(storage, {
    get(target, property) {
      const value = Reflect.get(target, property);
      if (property === "transactionSync" && left-- <= 0) throw new Error("killed");
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
  return new Transactions(env, breaking);
}
