/** Pictures and other files as inputs. */

/** A link, a `data:` URI, or the bytes themselves, which the client uploads. */
export type Source = string | Blob | Uint8Array | ArrayBuffer;

const SIGNATURES: readonly (readonly [string, readonly number[]])[] = [
  ["image/jpeg", [0xff, 0xd8, 0xff]],
  ["image/png", [0x89, 0x50, 0x4e, 0x47]],
  ["image/webp", [0x52, 0x49, 0x46, 0x46]],
];

/** Whether a value is bytes in any form. */
export function isBinary(value: unknown): value is Exclude<Source, string> {
  return value instanceof Blob || value instanceof Uint8Array || value instanceof ArrayBuffer;
}

/** Media type of bytes, by how they begin. */
export function contentTypeOf(bytes: Uint8Array): string {
  const found = SIGNATURES.find(([, start]) => start.every((byte, index) => bytes[index] === byte));
  return found?.[0] ?? "application/octet-stream";
}

/** The same as a Blob with a media type. */
export function blobOf(source: Exclude<Source, string>): Blob {
  if (source instanceof Blob) return source;
  const bytes = source instanceof Uint8Array ? source : new Uint8Array(source);
  return new Blob([bytes as Uint8Array<ArrayBuffer>], { type: contentTypeOf(bytes) });
}

/** The bytes themselves. */
export async function bytesOf(source: Exclude<Source, string>): Promise<Uint8Array> {
  if (source instanceof Uint8Array) return source;
  return new Uint8Array(source instanceof Blob ? await source.arrayBuffer() : source);
}

/** A copy of a value in which `replace` has taken the place of all bytes. The same bytes in two places are replaced once. */
export async function replaceBinaries(value: unknown, replace: (source: Exclude<Source, string>) => Promise<unknown>): Promise<unknown> {
  const known = new Map<unknown, Promise<unknown>>();
  const walk = async (each: unknown): Promise<unknown> => {
    if (isBinary(each)) {
      if (!known.has(each)) known.set(each, replace(each));
      return known.get(each);
    }
    if (Array.isArray(each)) return Promise.all(each.map(walk));
    if (!isPlain(each)) return each;
    const entries = Object.entries(each).map(async ([name, item]) => [name, await walk(item)] as const);
    return Object.fromEntries(await Promise.all(entries));
  };
  return walk(value);
}

/** Whether a value is an object literal. */
export function isPlain(value: unknown): value is Record<string, unknown> {
  if (typeof value !== "object" || value === null) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}
