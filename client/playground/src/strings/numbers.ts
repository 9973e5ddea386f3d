/** Numbers as they are read. */

const number = new Intl.NumberFormat("en", { maximumFractionDigits: 3 });
const whole = new Intl.NumberFormat("en");

/** A number as it is read: at most three digits behind the point, a true minus. */
export const shown = (value: number): string => number.format(value).replace("-", "−");
export const counted = (value: number): string => whole.format(value);
export const bytes = (value: number): string =>
  value < 1e6 ? `${number.format(Math.round(value / 100) / 10)} kB` : `${number.format(Math.round(value / 1e5) / 10)} MB`;
