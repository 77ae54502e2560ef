/** What a server must be told so that it has the values of a frame, when it has those of an earlier one. */

export type Values = Readonly<Record<string, unknown>>;

/** Fields to set, and fields that go back to their default. */
export interface Change {
  changed: Record<string, unknown>;
  reset: string[];
}

/** The values that the server of one session has. */
export class Difference {
  #known: Values | undefined = {};
  readonly #touched = new Set<string>();

  /** What changes from the frame before; the server is taken to have it all afterwards. */
  to(values: Values): Change {
    const known = this.#known;
    const given = Object.entries(values).filter(([, value]) => value !== undefined && value !== null);
    const changed = known ? given.filter(([name, value]) => !same(known[name], value)) : given;
    const names = new Set(given.map(([name]) => name));
    const reset = [...(known ? Object.keys(known) : this.#touched)].filter((name) => !names.has(name));
    for (const name of names) this.#touched.add(name);
    this.#known = Object.fromEntries(given);
    return { changed: Object.fromEntries(changed), reset };
  }

  /** A frame was refused or another server may answer: nothing is known, so the next frame says all. */
  forget(): void {
    this.#known = undefined;
  }
}

function same(one: unknown, other: unknown): boolean {
  if (one === other) return true;
  if (one instanceof Uint8Array && other instanceof Uint8Array) {
    return one.length === other.length && one.every((byte, index) => byte === other[index]);
  }
  if (Array.isArray(one) && Array.isArray(other)) {
    return one.length === other.length && one.every((item, index) => same(item, other[index]));
  }
  if (typeof one !== "object" || typeof other !== "object" || one === null || other === null) return false;
  if (ArrayBuffer.isView(one) || ArrayBuffer.isView(other)) return false;
  const names = Object.keys(one);
  if (names.length !== Object.keys(other).length) return false;
  return names.every((name) => same((one as Values)[name], (other as Values)[name]));
}
