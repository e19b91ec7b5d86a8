/** Names of labels as a person would write them, and descriptions, for heads that start from these. */

/** MultiDoGO writes its names without spaces. Its labels of more than one intent, and those of no intent, are left out. */
const multidogo: Readonly<Record<string, string>> = {
  openinggreeting: "opening greeting",
  closinggreeting: "closing greeting",
  thankyou: "thank you",
  confirmation: "confirmation",
  rejection: "rejection",
  getseatinfo: "get seat info",
  changeseatassignment: "change seat assignment",
  getboardingpass: "get boarding pass",
  bookflight: "book flight",
  orderpizzaintent: "order pizza",
  orderdrinkintent: "order drink",
  orderburgerintent: "order burger",
  orderdessertintent: "order dessert",
  ordersideintent: "order side",
  ordersaladintent: "order salad",
  orderbreakfastintent: "order breakfast",
  updateaddress: "update address",
  reportlostcard: "report lost card",
  transfermoney: "transfer money",
  checkbalance: "check balance",
  getroutingnumber: "get routing number",
  disputecharge: "dispute charge",
  orderchecks: "order checks",
  checkoffereligibility: "check offer eligibility",
  closeaccount: "close account",
  openaccount: "open account",
  replacecard: "replace card",
  requestcreditlimitincrease: "request credit limit increase",
  checkclaimstatus: "check claim status",
  getproofofinsurance: "get proof of insurance",
  reportbrokenphone: "report broken phone",
  startserviceintent: "start service",
  getinformationintent: "get information",
  viewdatausageintent: "view data usage",
  viewbillsintent: "view bills",
  cancelserviceintent: "cancel service",
  transferserviceintent: "transfer service",
  upgradeserviceintent: "upgrade service",
  updateaccountinfointent: "update account info",
  reportbrokensoftware: "report broken software",
  softwareupdate: "software update",
  startorder: "start order",
  checkserverstatus: "check server status",
  expensereport: "expense report",
  getpromotions: "get promotions",
  stoporder: "stop order",
  changeorder: "change order",
  providereceipt: "provide receipt",
};

/** The name of a set's label; null for one that is left out. */
export function readableName(set: string, label: string): string | null {
  if (set.startsWith("multidogo_")) return multidogo[label] ?? null;
  return label === "None" ? null : label;
}

/** What someone who opens a help desk would write of the labels of examples/support-tickets.csv. */
export const descriptionsOfTickets: Readonly<Record<string, string>> = {
  billing_refund: "The customer was charged wrongly or wants money back.",
  bug_report: "Something in the product does not work or crashes.",
  cancel_account: "The customer wants to end a subscription or delete the account.",
  feature_request: "The customer wishes for something that the product cannot do yet.",
  how_to: "The customer asks how to do something in the product.",
  invoice_request: "The customer needs an invoice, a receipt or a change of billing details.",
  password_login: "The customer cannot sign in or has lost the password.",
  shipping_delivery: "The customer asks where a parcel is or when it arrives.",
};
