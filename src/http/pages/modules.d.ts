/** wrangler.toml says how these kinds of file become modules of the Worker. */
declare module "*.md" {
  const text: string;
  export default text;
}

declare module "swagger-ui-dist/*" {
  const bytes: ArrayBuffer;
  export default bytes;
}
