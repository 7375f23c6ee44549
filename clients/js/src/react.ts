/** React hook: the state of one bot's link, live while the component is mounted. */

import { useEffect, useMemo, useRef, useSyncExternalStore } from "react";
import { RoundtripClient, type Options, type State } from "./index.js";

/** The state and the client, whose `link()` and `logOut()` are the commands. Another `botId`, `userId` or `url` begins
 * afresh; functions may be new ones at each render. */
export function useRoundtrip(options: Options): State & { client: RoundtripClient } {
  const newest = useRef(options);
  useEffect(() => {
    newest.current = options;
  });
  const withToken = options.getToken !== undefined;
  const client = useMemo(
    () =>
      new RoundtripClient({
        ...options,
        ...(withToken ? { getToken: (ask) => (newest.current.getToken ?? options.getToken!)(ask) } : {}),
        onEvent: (event) => newest.current.onEvent?.(event),
      }),
    [options.url, options.botId, options.userId, withToken],
  );
  useEffect(() => {
    client.start();
    return () => client.stop();
  }, [client]);
  const state = useSyncExternalStore(client.subscribe, client.getState, client.getState);
  return { ...state, client };
}
