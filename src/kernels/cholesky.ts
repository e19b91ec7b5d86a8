/**
 * Cholesky's factorisation A = L Lᵀ of symmetric matrices, and inverses from it, in AssemblyScript: 64-bit floats,
 * row-major, pointers as byte offsets. Rows have `width` numbers, a multiple of four; what is beyond the matrix is the
 * identity. Each function works on the rows from `first` to `last`, multiples of four, so that a caller can pause between
 * them. They all sum products of rows, four by four at a time, so that the sums stay in registers.
 */

const TILE: i32 = 4;

/**
 * These rows of L, in the place of the lower triangle of a. A squared pivot of at most `minSquaredPivot` is raised to it,
 * or if `drops` is not 0, its row counts as dependent on those above: its pivot and what is below become zeros.
 * `reciprocals` gets the reciprocal of each pivot, 0 for that of a dependent row.
 */
export function factoriseRows(
  width: i32,
  first: i32,
  last: i32,
  a: usize,
  reciprocals: usize,
  minSquaredPivot: f64,
  drops: i32,
): void {
  const row = <usize>width << 3;
  for (let j = 0; j < last; j += TILE) {
    const upper = a + <usize>j * row;
    for (let i = max(first, j); i < last; i += TILE) {
      const lower = a + <usize>i * row;
      const tile = lower + (<usize>j << 3);
      subtractProducts(lower, upper, row, <usize>j << 3, tile);
      if (i == j) factoriseTile(tile, row, reciprocals + (<usize>j << 3), minSquaredPivot, drops);
      else solveTile(tile, upper + (<usize>j << 3), row, reciprocals + (<usize>j << 3));
    }
  }
}

/** These rows of L⁻ᵀ, in the place of those of the identity. */
export function invertRows(width: i32, first: i32, last: i32, a: usize, reciprocals: usize, inverse: usize): void {
  const row = <usize>width << 3;
  for (let i = first; i < width; i += TILE) {
    const factor = a + <usize>i * row;
    for (let j = first; j < last && j <= i; j += TILE) {
      const start = <usize>j << 3;
      const to = inverse + <usize>j * row;
      const tile = to + (<usize>i << 3);
      subtractProducts(to + start, factor + start, row, <usize>(i - j) << 3, tile);
      solveTile(tile, factor + (<usize>i << 3), row, reciprocals + (<usize>i << 3));
    }
  }
}

/** These rows of A⁻¹ = L⁻ᵀ L⁻¹ up to the diagonal, in the place of those of a. */
export function multiplyInverse(width: i32, first: i32, last: i32, inverse: usize, a: usize): void {
  const row = <usize>width << 3;
  for (let j = 0; j < last; j += TILE) {
    for (let i = max(first, j); i < last; i += TILE) {
      const start = <usize>i << 3;
      const tile = a + <usize>i * row + (<usize>j << 3);
      for (let at = tile; at < tile + <usize>TILE * row; at += row) memory.fill(at, 0, TILE << 3);
      const lower = inverse + <usize>i * row + start;
      subtractProducts(lower, inverse + <usize>j * row + start, row, <usize>(width - i) << 3, tile);
      for (let at = tile; at < tile + <usize>TILE * row; at += row) {
        v128.store(at, f64x2.neg(v128.load(at)));
        v128.store(at, f64x2.neg(v128.load(at, 16)), 16);
      }
    }
  }
}

/** tile −= X Yᵀ, four rows by four. The rows of all three are `row` bytes apart, and those of X and Y have `bytes`. */
// @ts-expect-error: a decorator on a function, which AssemblyScript has
@inline
function subtractProducts(x: usize, y: usize, row: usize, bytes: usize, tile: usize): void {
  if (bytes == 0) return;
  subtractPairs(x, y, row, bytes, tile);
  subtractPairs(x, y + 2 * row, row, bytes, tile + 16);
}

/** The same for two rows of Y. */
function subtractPairs(x: usize, y: usize, row: usize, bytes: usize, tile: usize): void {
  let s00 = f64x2.splat(0);
  let s01 = s00;
  let s10 = s00;
  let s11 = s00;
  let s20 = s00;
  let s21 = s00;
  let s30 = s00;
  let s31 = s00;
  const x1 = x + row;
  const x2 = x1 + row;
  const x3 = x2 + row;
  const y1 = y + row;
  for (let p: usize = 0; p < bytes; p += 16) {
    const b0 = v128.load(y + p);
    const b1 = v128.load(y1 + p);
    let a = v128.load(x + p);
    s00 = f64x2.relaxed_madd(a, b0, s00);
    s01 = f64x2.relaxed_madd(a, b1, s01);
    a = v128.load(x1 + p);
    s10 = f64x2.relaxed_madd(a, b0, s10);
    s11 = f64x2.relaxed_madd(a, b1, s11);
    a = v128.load(x2 + p);
    s20 = f64x2.relaxed_madd(a, b0, s20);
    s21 = f64x2.relaxed_madd(a, b1, s21);
    a = v128.load(x3 + p);
    s30 = f64x2.relaxed_madd(a, b0, s30);
    s31 = f64x2.relaxed_madd(a, b1, s31);
  }
  subtractSums(tile, s00, s01);
  subtractSums(tile + row, s10, s11);
  subtractSums(tile + 2 * row, s20, s21);
  subtractSums(tile + 3 * row, s30, s31);
}

/** Subtracts the sums of two pairs from two numbers. */
// @ts-expect-error: a decorator on a function, which AssemblyScript has
@inline
function subtractSums(at: usize, s0: v128, s1: v128): void {
  const sums = f64x2.add(i64x2.shuffle(s0, s1, 0, 2), i64x2.shuffle(s0, s1, 1, 3));
  v128.store(at, f64x2.sub(v128.load(at), sums));
}

/** X Lᵀ = tile for X, in its place: four rows, and L four by four. */
function solveTile(tile: usize, lower: usize, row: usize, reciprocals: usize): void {
  for (let r: usize = 0; r < <usize>TILE; r++, tile += row) {
    for (let c: usize = 0; c < <usize>TILE; c++)
      store<f64>(tile + (c << 3), solved(tile, lower + c * row, c) * load<f64>(reciprocals + (c << 3)));
  }
}

/** Number c of a row, less its products with the numbers before it. */
// @ts-expect-error: a decorator on a function, which AssemblyScript has
@inline
function solved(x: usize, y: usize, c: usize): f64 {
  let value = load<f64>(x + (c << 3));
  for (let q: usize = 0; q < c; q++) value -= load<f64>(x + (q << 3)) * load<f64>(y + (q << 3));
  return value;
}

/** L of four rows and columns on the diagonal. */
function factoriseTile(tile: usize, row: usize, reciprocals: usize, minSquaredPivot: f64, drops: i32): void {
  for (let r: usize = 0; r < <usize>TILE; r++) {
    const to = tile + r * row;
    for (let c: usize = 0; c < r; c++)
      store<f64>(to + (c << 3), solved(to, tile + c * row, c) * load<f64>(reciprocals + (c << 3)));
    const squaredPivot = solved(to, to, r);
    const isDependent = drops != 0 && !(squaredPivot > minSquaredPivot);
    const pivot: f64 = isDependent ? 0 : Math.sqrt(Math.max(squaredPivot, minSquaredPivot));
    store<f64>(to + (r << 3), pivot);
    store<f64>(reciprocals + (r << 3), isDependent ? 0 : 1 / pivot);
  }
}
