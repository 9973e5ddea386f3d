import { useLayoutEffect, useRef } from "preact/hooks";

import { isOutside, share, type Scale } from "../steering/scale";
import { shown, words } from "../strings";

/** The least share of the track that has room for the word between the two numbers. */
const ROOM_FOR_WORD = 0.3;

interface Props {
  name: string;
  value: number;
  scale: Scale;
  onChange: (value: number) => void;
}

/** A slider. Its track is filled from zero, and shows where the safe range ends; both ways beyond it can be gone. */
export function SafeTrack({ name, value, scale, onChange }: Props) {
  const track = useRef<HTMLDivElement>(null);
  const zero = share(0, scale);
  const at = share(value, scale);
  const [low, high] = scale.safe ? [share(scale.safe[0], scale), share(scale.safe[1], scale)] : [0, 1];
  useLayoutEffect(() => {
    const style = track.current!.style;
    style.setProperty("--from", String(Math.min(zero, at)));
    style.setProperty("--to", String(Math.max(zero, at)));
    style.setProperty("--zero", String(zero));
    style.setProperty("--low", String(low));
    style.setProperty("--high", String(high));
  });
  const range = !scale.safe
    ? words.sliders.noRange
    : isOutside(value, scale.safe)
      ? words.sliders.outOfRange
      : words.sliders.inRange;
  return (
    <div class={scale.safe ? "track has-range" : "track"} ref={track}>
      <div class="track-line" aria-hidden="true">
        <span class="track-safe" title={scale.safe ? words.sliders.safeRange(...scale.safe) : undefined} />
        <span class="track-fill" />
        <span class="track-zero" />
      </div>
      <input
        type="range"
        aria-label={name}
        aria-valuetext={`${shown(value)}, ${range}`}
        min={scale.min}
        max={scale.max}
        step={scale.step}
        value={value}
        onInput={(event) => onChange(event.currentTarget.valueAsNumber)}
      />
      {scale.safe && (
        <div class="track-ends" aria-hidden="true">
          {scale.safe[0] >= scale.min && <span class="track-low">{shown(scale.safe[0])}</span>}
          {high - low > ROOM_FOR_WORD && <span class="track-word">{words.sliders.safe}</span>}
          {scale.safe[1] <= scale.max && <span class="track-high">{shown(scale.safe[1])}</span>}
        </div>
      )}
    </div>
  );
}
