/** Leaves out what is undefined, for options whose absence means the default. */

export type Defined<T extends object> = { [Key in keyof T]?: Exclude<T[Key], undefined> };

export function defined<T extends object>(object: T): Defined<T> {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined)) as Defined<T>;
}
