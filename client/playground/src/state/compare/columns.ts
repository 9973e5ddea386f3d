import { computed, signal } from "@preact/signals";

import { UNSTEERED, newRead, newUse, type Mix, type Read, type Use } from "../../steering/mix";
import { boundTo } from "../server";
import { usable } from "../vectors";

/** One way of steering, and the answers that it gave stand under it. */
export interface Column {
  readonly id: number;
  readonly mix: Mix;
}

export const MOST_COLUMNS = 4;
let ids = 0;

export const columns = signal<readonly Column[]>([newColumn(UNSTEERED), newColumn(UNSTEERED)]);
/** Which column the sliders belong to. */
export const selectedId = signal(columns.value[1]!.id);
export const selected = computed(() => columns.value.find((one) => one.id === selectedId.value) ?? columns.value[0]!);

export function newColumn(mix: Mix): Column {
  ids += 1;
  return { id: ids, mix };
}

export function setColumns(next: readonly Column[], select = next.length - 1): void {
  columns.value = next;
  selectedId.value = next[select]!.id;
}

/** A copy of the selected column, selected. Returns its id. */
export function addColumn(): number {
  const { uses, reads, ...rest } = selected.value.mix;
  const copies = {
    uses: uses.map((use) => ({ ...use, key: newUse(use.id, 0).key })),
    reads: reads.map((read) => ({ ...read, key: newRead(read.id).key })),
  };
  const made = newColumn({ ...rest, ...copies });
  setColumns([...columns.value, made]);
  return made.id;
}

export function removeColumn(id: number): void {
  const rest = columns.value.filter((one) => one.id !== id);
  if (rest.length === 0) return;
  columns.value = rest;
  if (!rest.some((one) => one.id === selectedId.value)) selectedId.value = rest[rest.length - 1]!.id;
}

/** Change the mix of a column. It is then no longer the preset that it was. */
export function changeMix(id: number, change: (mix: Mix) => Mix): void {
  columns.value = columns.value.map((one) => (one.id === id ? { ...one, mix: { ...change(one.mix), preset: null } } : one));
}

export function setMix(id: number, mix: Mix): void {
  columns.value = columns.value.map((one) => (one.id === id ? { ...one, mix } : one));
}

export function changeUse(column: number, key: number, change: Partial<Omit<Use, "key">>): void {
  changeMix(column, (mix) => ({ ...mix, uses: mix.uses.map((use) => (use.key === key ? { ...use, ...change } : use)) }));
}

export function addUse(column: number, id: string, coefficient: number): void {
  changeMix(column, (mix) => ({ ...mix, uses: [...mix.uses, newUse(id, coefficient)] }));
}

export function removeUse(column: number, key: number): void {
  changeMix(column, (mix) => ({ ...mix, uses: mix.uses.filter((use) => use.key !== key) }));
}

export function addRead(column: number, id: string): void {
  changeMix(column, (mix) => ({ ...mix, reads: [...mix.reads, newRead(id)] }));
}

export function changeRead(column: number, key: number, change: Partial<Omit<Read, "key">>): void {
  changeMix(column, (mix) => ({ ...mix, reads: mix.reads.map((read) => (read.key === key ? { ...read, ...change } : read)) }));
}

export function removeRead(column: number, key: number): void {
  changeMix(column, (mix) => ({ ...mix, reads: mix.reads.filter((read) => read.key !== key) }));
}

let shownOnce = false;

/** On a fresh page the second column shows what steering is: with one vector, most of the way to the end of its safe range. */
export function steerSecondColumn(): void {
  const all = usable.value;
  const first = all.find((one) => one.id === "cheerful") ?? all[0];
  const second = columns.peek()[1];
  if (!first || !second || shownOnce || boundTo.value !== null) return;
  shownOnce = true;
  const coefficient = first.safe_range && first.safe_range[1] > 0 ? first.safe_range[1] * 0.75 : first.coefficient;
  setMix(second.id, { ...UNSTEERED, uses: [newUse(first.id, coefficient)] });
}
