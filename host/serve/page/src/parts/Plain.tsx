// A table of what a list has. Narrow, its rows become cards; the roles are spelled out, since such a layout would take them away.

import type { ComponentChildren } from "preact";

export interface Column<T> {
  head: string;
  kind?: string;
  cell: (item: T) => ComponentChildren;
}

interface Props<T> {
  caption: string;
  columns: Column<T>[];
  items: T[];
  keyOf: (item: T) => string;
}

export function Plain<T>({ caption, columns, items, keyOf }: Props<T>) {
  return (
    <div class="scroller">
      <table role="table" class="cards" onKeyDown={arrows}>
        <caption class="unseen">{caption}</caption>
        <thead role="rowgroup">
          <tr role="row">
            {columns.map(({ head, kind }) => (
              <th role="columnheader" scope="col" class={kind}>
                {head || <span class="unseen">What can be done</span>}
              </th>
            ))}
          </tr>
        </thead>
        <tbody role="rowgroup">
          {items.map((item) => (
            <tr role="row" key={keyOf(item)}>
              {columns.map(({ head, kind, cell }) => (
                <td role="cell" class={kind} {...(head ? { "data-head": head } : {})}>
                  <div>{cell(item)}</div>
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

// Arrow keys go from a row's link or button to that of the next row.
function arrows(event: KeyboardEvent): void {
  const row = event.target instanceof Element ? event.target.closest("tbody tr") : null;
  if (!row || !["ArrowDown", "ArrowUp", "Home", "End"].includes(event.key)) return;
  const rows = [...(row.parentElement?.children ?? [])];
  const controls = (of: Element | undefined): HTMLElement[] => [
    ...(of?.querySelectorAll<HTMLElement>("a, button, summary") ?? []),
  ];
  const which = controls(row).findIndex((control) => control === event.target);
  const at = rows.indexOf(row);
  const next = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1 }[event.key] ?? at;
  const target = controls(rows[next])[which] ?? controls(rows[next])[0];
  if (!target) return;
  event.preventDefault();
  target.focus();
}
