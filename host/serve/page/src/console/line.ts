// The connection to a console: a WebSocket that types, or a stream that is only followed.

import { get, part, post, Problem } from "../api";
import { follow, type Stream } from "../events";
import { isOver, type VmDetails } from "../shapes";

export type Line = "connecting" | "attached" | "followed" | "lost" | "ended";

export interface Told {
  bytes: (bytes: Uint8Array) => void;
  // The bytes that follow begin with the console's first one again.
  begins: () => void;
  line: (line: Line) => void;
  problem: (problem: Problem | undefined) => void;
}

export interface Connection {
  type: (text: string) => void;
  typeBytes: (text: string) => void;
  close: () => void;
}

const WAITS_MS = [500, 1000, 2000, 4000, 8000];
// The status of a WebSocket that was closed as intended (RFC 6455).
const NORMAL = 1000;

export function connect(vm: VmDetails, told: Told): Connection {
  const place = `/v1/vms/${part(vm.id)}/console`;
  let socket: WebSocket | undefined;
  let stream: Stream | undefined;
  let timer: number | undefined;
  let failures = 0;
  let isClosed = false;

  const attach = async (): Promise<void> => {
    told.line("connecting");
    let ticket: string;
    try {
      const given = await post<{ ticket: string }>(`${place}/ticket`);
      ticket = given?.ticket ?? "";
    } catch (error) {
      const problem = Problem.of(error);
      if (isClosed) return;
      if (problem.isLost || problem.status >= 500) return again();
      // A console that may not be typed into may still be read.
      const hasEnded = problem.status === 409 || problem.status === 404;
      if (!hasEnded) told.problem(problem);
      return read();
    }
    if (isClosed) return;
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const opened = new WebSocket(`${scheme}//${location.host}${place}/attach?ticket=${encodeURIComponent(ticket)}`);
    opened.binaryType = "arraybuffer";
    socket = opened;
    opened.onopen = () => {
      failures = 0;
      told.begins();
      told.problem(undefined);
      told.line("attached");
    };
    opened.onmessage = ({ data }: MessageEvent<ArrayBuffer | string>) =>
      told.bytes(typeof data === "string" ? new TextEncoder().encode(data) : new Uint8Array(data));
    opened.onclose = ({ code }) => {
      if (isClosed || socket !== opened) return;
      socket = undefined;
      if (code === NORMAL) told.line("ended");
      else again();
    };
  };

  const again = (): void => {
    told.line("lost");
    timer = setTimeout(() => void attach(), WAITS_MS[Math.min(failures, WAITS_MS.length - 1)]);
    failures += 1;
  };

  const read = (): void => {
    told.begins();
    stream = follow(place, {
      item: (data) => told.bytes(decoded((data as { bytes: string }).bytes)),
      status: (link) => told.line(link === "lost" ? "lost" : "followed"),
      isOver: async () => {
        try {
          return isOver((await get<VmDetails>(`/v1/vms/${part(vm.id)}`)).state);
        } catch (error) {
          return Problem.of(error).status === 404;
        }
      },
      ended: () => told.line("ended"),
      refused: told.problem,
    });
  };

  if (isOver(vm.state)) read();
  else void attach();

  const send = (data: string | Uint8Array<ArrayBuffer>): void => {
    if (socket?.readyState === WebSocket.OPEN) socket.send(data);
  };
  return {
    type: send,
    typeBytes: (text) => send(Uint8Array.from(text, (character) => character.charCodeAt(0) & 0xff)),
    close: () => {
      isClosed = true;
      clearTimeout(timer);
      stream?.close();
      socket?.close(NORMAL);
    },
  };
}

function decoded(base64: string): Uint8Array {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}
