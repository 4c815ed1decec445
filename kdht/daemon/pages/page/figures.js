// Figures in words: rates, durations, sizes; and quantiles of the node's histograms.

export const whole = (number) => Math.round(number).toLocaleString("en");

// The first is the greatest that fits.
function scaled(number, units) {
  const [size, unit] = units.find(([each]) => number >= each) || units.at(-1);
  const value = number / size;
  return `${value > 0 && value < 10 ? Number(value.toFixed(1)) : whole(value)} ${unit}`;
}

export const bytes = (number) => scaled(number, [[2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"], [1, "B"]]);
export const seconds = (number) => number <= 0 ? "0 s" : scaled(number, [[1, "s"], [1e-3, "ms"], [1e-6, "µs"]]);
export const span = (number) => scaled(number, [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]]);
export const perSecond = (number) => `${number > 0 && number < 10 ? number.toFixed(1) : whole(number)}/s`;

// A counter's rise a second; one that fell began again with the daemon.
export function rate(now, before, read) {
  const passed = before ? now.time - before.time : 0;
  return passed > 0 ? Math.max(read(now) - read(before), 0) / passed : 0;
}

// A histogram's counts since another look at it.
export function since(now, before) {
  if (!before || now.counts.some((count, i) => count < before.counts[i])) return now;
  return { bounds: now.bounds, counts: now.counts.map((count, i) => count - before.counts[i]) };
}

export const total = (histogram) => histogram.counts.reduce((sum, count) => sum + count, 0);

// As Prometheus computes it: even within a bucket. Above the last bound nothing more is known.
export function quantile({ bounds, counts }, part) {
  let left = part * total({ counts });
  for (let i = 0; i < bounds.length; i += 1) {
    if (counts[i] >= left && counts[i] > 0) {
      const low = i ? bounds[i - 1] : 0;
      return seconds(low + (bounds[i] - low) * left / counts[i]);
    }
    left -= counts[i];
  }
  return `> ${seconds(bounds.at(-1))}`;
}
