/** What is wrong with the data or the settings that a user gave: told in one line, without a stack. */
export class UsageError extends Error {}
