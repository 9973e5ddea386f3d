/** Numbers in what others wrote. */

export function finite(value: unknown): number | null {
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

/** A list of finite numbers; null for anything else. */
export function numbers(value: unknown): number[] | null {
  return Array.isArray(value) && value.every((n) => finite(n) !== null) ? (value as number[]) : null;
}
