// What is taken and what is left, as a bar and in words.

interface GaugeProps {
  name: string;
  used: number;
  limit: number | null | undefined;
  shown: (count: number) => string;
  // The gauge is in a table, whose column has the name.
  isBare?: boolean;
}

export function Gauge({ name, used, limit, shown, isBare = false }: GaugeProps) {
  if (limit === null || limit === undefined) {
    return (
      <div class="gauge">
        {!isBare && (
          <div class="gauge-head">
            <b>{name}</b>
          </div>
        )}
        <p class="gauge-words">{shown(used)} taken; no bound</p>
      </div>
    );
  }
  const share = limit > 0 ? Math.min(1, used / limit) : 1;
  const left = Math.max(0, limit - used);
  const tone = share >= 1 ? "bad" : share >= 0.8 ? "warn" : "";
  const words = `${shown(used)} of ${shown(limit)} taken, ${left > 0 ? `${shown(left)} left` : "nothing left"}`;
  return (
    <div class="gauge">
      {!isBare && (
        <div class="gauge-head">
          <b>{name}</b>
          <span class="gauge-words">{Math.round(share * 100)} %</span>
        </div>
      )}
      <div
        class={`bar ${tone}`}
        role="meter"
        aria-label={name}
        aria-valuemin={0}
        aria-valuemax={limit}
        aria-valuenow={Math.min(used, limit)}
        aria-valuetext={words}
      >
        <span style={{ width: `${share * 100}%` }} />
      </div>
      <p class="gauge-words">{words}</p>
    </div>
  );
}
