/** Numbers as C's printf rounds them: an exact tie goes to the even digit, where JavaScript goes up. */

/** As `%.3g`: three significant digits. */
export function threeDigits(value: number): string {
  if (value === 0) return '0';
  const [digits = '0', exponent = '0'] = exponentForm(value).split('e');
  const power = Number(exponent);
  if (power < 3) return String(Number(`${digits}e${power}`));
  return `${String(Number(digits))}e+${String(power).padStart(2, '0')}`;
}

/** As `%.2f`: two digits after the point. */
export function twoDecimals(value: number): string {
  const even = evenNeighbour(value * 100);
  return (even === null ? value : even / 100).toFixed(2);
}

/** As `%.2e`, but for the exponent's sign and zeros. */
function exponentForm(value: number): string {
  const rounded = value.toExponential(2);
  const scale = 2 - Number(rounded.split('e')[1]);
  const even = scale < 0 ? null : evenNeighbour(value * 10 ** scale);
  return even === null ? rounded : (even / 10 ** scale).toExponential(2);
}

/** The even one of the integers next to a number exactly between two; null for any other number. */
function evenNeighbour(value: number): number | null {
  return value - Math.floor(value) === 0.5 ? 2 * Math.round(value / 2) : null;
}
