// The table of VMs. Only the rows in sight are in the document, so that a thousand VMs cost what thirty do.

import { useLayoutEffect, useRef, useState } from "preact/hooks";

import { route, filterBy, to } from "../route";
import { age, mib, seen, short } from "../text";
import type { Row } from "../vms";
import { Chip } from "./Chip";

const ROW_PX = 34;
// Rows beyond those in sight, so that a quick scroll shows no gap.
const SPARE = 8;

interface Column {
  key: string;
  head: string;
  kind?: string;
  order: (a: Row, b: Row) => number;
}

const text =
  (of: (row: Row) => string) =>
  (a: Row, b: Row): number => {
    const [left, right] = [of(a), of(b)];
    return left < right ? -1 : left > right ? 1 : 0;
  };

const COLUMNS: readonly Column[] = [
  { key: "task", head: "Task", order: text((row) => row.vm.task) },
  { key: "state", head: "State", order: text((row) => row.vm.state) },
  { key: "since", head: "Since", kind: "number", order: (a, b) => b.since - a.since },
  { key: "tenant", head: "Tenant", order: text((row) => row.vm.tenant) },
  { key: "cpus", head: "CPUs", kind: "number wide", order: (a, b) => b.cpus - a.cpus },
  { key: "memory", head: "Memory", kind: "number wide", order: (a, b) => b.memory_mib - a.memory_mib },
  { key: "ports", head: "Ports", kind: "wide", order: text((row) => row.ports) },
  { key: "image", head: "Image", kind: "widest", order: text((row) => row.image) },
];

export function sorted(rows: Row[], by: string): Row[] {
  const [key = "since", direction] = by.split("-");
  const column = COLUMNS.find((column) => column.key === key);
  if (!column) return rows;
  const list = [...rows].sort(column.order);
  return direction === "down" ? list.reverse() : list;
}

export function VmTable({ rows, by, now }: { rows: Row[]; by: string; now: number }) {
  const scroller = useRef<HTMLDivElement>(null);
  const [view, setView] = useState({ top: 0, height: 600 });
  const [current, setCurrent] = useState(0);
  // Whether the row that is current now is to get the focus once it is in the document.
  const moves = useRef(false);

  useLayoutEffect(() => {
    const element = scroller.current;
    if (!element) return;
    const measure = (): void => setView({ top: element.scrollTop, height: element.clientHeight });
    const sizes = new ResizeObserver(measure);
    sizes.observe(element);
    measure();
    return () => sizes.disconnect();
  }, []);

  const at = Math.min(current, Math.max(0, rows.length - 1));
  useLayoutEffect(() => {
    if (!moves.current) return;
    moves.current = false;
    scroller.current?.querySelector<HTMLElement>(`[data-row="${at}"]`)?.focus({ preventScroll: true });
  });

  const first = Math.max(0, Math.floor(view.top / ROW_PX) - SPARE);
  const last = Math.min(rows.length, Math.ceil((view.top + view.height) / ROW_PX) + SPARE);

  const move = (index: number): void => {
    const next = Math.max(0, Math.min(rows.length - 1, index));
    const element = scroller.current;
    if (!element) return;
    const head = element.querySelector("thead")?.clientHeight ?? 0;
    const [top, bottom] = [next * ROW_PX, (next + 1) * ROW_PX];
    if (top < element.scrollTop) element.scrollTop = top;
    if (bottom + head > element.scrollTop + element.clientHeight) element.scrollTop = bottom + head - element.clientHeight;
    moves.current = true;
    setCurrent(next);
    setView({ top: element.scrollTop, height: element.clientHeight });
  };

  const key = (event: KeyboardEvent): void => {
    if (!(event.target instanceof HTMLElement) || event.target.dataset["row"] === undefined) return;
    const page = Math.max(1, Math.floor(view.height / ROW_PX) - 2);
    const steps: Record<string, number> = {
      ArrowDown: at + 1,
      ArrowUp: at - 1,
      PageDown: at + page,
      PageUp: at - page,
      Home: 0,
      End: rows.length - 1,
    };
    const next = steps[event.key];
    if (next === undefined) return;
    event.preventDefault();
    move(next);
  };

  return (
    <div
      class="scroller vms"
      ref={scroller}
      onScroll={(event) => setView({ top: event.currentTarget.scrollTop, height: event.currentTarget.clientHeight })}
      onKeyDown={key}
    >
      <table aria-rowcount={rows.length + 1}>
        <caption class="unseen">VMs; arrow keys go from row to row, Enter opens one</caption>
        <thead>
          <tr aria-rowindex={1}>
            {COLUMNS.map((column) => (
              <Head column={column} by={by} />
            ))}
          </tr>
        </thead>
        <tbody>
          <Gap rows={first} />
          {rows.slice(first, last).map((row, index) => (
            <Line
              key={row.vm.id}
              row={row}
              index={first + index}
              isCurrent={first + index === at}
              now={now}
              onFocus={setCurrent}
            />
          ))}
          <Gap rows={rows.length - last} />
        </tbody>
      </table>
    </div>
  );
}

function Gap({ rows }: { rows: number }) {
  return rows > 0 ? (
    <tr class="gap" aria-hidden="true">
      <td colSpan={COLUMNS.length} style={{ height: `${rows * ROW_PX}px` }} />
    </tr>
  ) : null;
}

function Head({ column, by }: { column: Column; by: string }) {
  const { key, head, kind = "" } = column;
  const isUp = by === key;
  const isDown = by === `${key}-down`;
  const sort = isUp ? "ascending" : isDown ? "descending" : "none";
  return (
    <th scope="col" class={kind} aria-sort={sort}>
      <button type="button" class="sort" onClick={() => filterBy("sort", isUp ? `${key}-down` : key)}>
        {head}
        <span aria-hidden="true">{isUp ? " ▲" : isDown ? " ▼" : ""}</span>
      </button>
    </th>
  );
}

interface LineProps {
  row: Row;
  index: number;
  isCurrent: boolean;
  now: number;
  onFocus: (index: number) => void;
}

function Line({ row, index, isCurrent, now, onFocus }: LineProps) {
  const { vm } = row;
  return (
    <tr aria-rowindex={index + 2} class={isCurrent ? "current" : ""} onClick={(event) => open(event, vm.id)}>
      <td>
        <a
          href={to("vms", vm.id)}
          data-row={index}
          tabIndex={isCurrent ? 0 : -1}
          onFocus={() => onFocus(index)}
          title={seen(vm.task)}
        >
          {seen(vm.task)}
        </a>
      </td>
      <td title={seen(vm.changes.at(-1)?.reason ?? "")}>
        <Chip word={vm.state} />
        {vm.restarts > 0 && <span class="tag warn">restarts: {vm.restarts}</span>}
        {vm.boot_failed_at && <span class="tag bad">no boot device</span>}
      </td>
      <td class="number">
        {row.since ? <time dateTime={vm.changes.at(-1)?.at ?? ""}>{age(vm.changes.at(-1)?.at ?? "", now)}</time> : "–"}
      </td>
      <td title={seen(vm.tenant)}>{seen(vm.tenant)}</td>
      <td class="number wide">{row.cpus || "–"}</td>
      <td class="number wide">{row.memory_mib ? mib(row.memory_mib) : "–"}</td>
      <td class="wide mono" title={row.ports}>
        {row.ports || "–"}
      </td>
      <td class="widest mono">{row.image ? short(row.image) : "–"}</td>
    </tr>
  );
}

// A click anywhere in a row opens it, but not the one that ends a selection of text.
function open(event: MouseEvent, id: string): void {
  const isOnLink = event.target instanceof Element && event.target.closest("a");
  if (isOnLink || getSelection()?.toString()) return;
  location.hash = to("vms", id);
}

export const sortedBy = (): string => route.value.query.get("sort") ?? "since";
