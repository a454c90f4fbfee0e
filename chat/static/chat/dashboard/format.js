// Numbers, sizes and times in words. Times are UTC like all times of the admin.

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const count = (number) => whole.format(number);
export const compact = (number) => (number < 10_000 ? whole.format(number) : short.format(number));
export const megabytes = (bytes) => `${whole.format(Math.round(bytes / 2 ** 20))} MB`;

export function dollars(usd) {
  if (usd === null) return "unknown";
  return `$${usd.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: usd !== 0 && usd < 1 ? 4 : 2 })}`;
}

export function milliseconds(ms) {
  if (ms === null) return "–";
  return ms < 10_000 ? `${whole.format(ms)} ms` : `${(ms / 1_000).toFixed(1)} s`;
}

export function age(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 120) return `${s} s`;
  if (s < 7_200) return `${Math.floor(s / 60)} min`;
  if (s < 172_800) return `${Math.floor(s / 3_600)} h`;
  return `${Math.floor(s / 86_400)} days`;
}

const pad = (number) => String(number).padStart(2, "0");

export function clock(unix) {
  const at = new Date(unix * 1_000);
  return `${pad(at.getUTCHours())}:${pad(at.getUTCMinutes())}`;
}

export function day(unix) {
  const at = new Date(unix * 1_000);
  return `${pad(at.getUTCMonth() + 1)}-${pad(at.getUTCDate())}`;
}

export const moment = (unix) => `${new Date(unix * 1_000).getUTCFullYear()}-${day(unix)} ${clock(unix)}`;

export const label = { day: clock, week: (unix) => `${day(unix)} ${clock(unix)}`, month: day };
