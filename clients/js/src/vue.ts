/** Vue composable: the state of one bot's link, live for the scope that calls it. */

import { onScopeDispose, shallowRef, toValue, watch, type MaybeRefOrGetter, type ShallowRef } from "vue";
import { RoundtripClient, type Options, type State } from "./index.js";

/** `options` may be a ref or a getter: another `botId`, `userId` or `url` begins afresh. `client` has the commands. */
export function useRoundtrip(options: MaybeRefOrGetter<Options>): {
  state: Readonly<ShallowRef<State>>;
  client: Readonly<ShallowRef<RoundtripClient>>;
} {
  const make = () => {
    const { getToken, ...rest } = toValue(options);
    return new RoundtripClient({
      ...rest,
      ...(getToken ? { getToken: (ask) => (toValue(options).getToken ?? getToken)(ask) } : {}),
      onEvent: (event) => toValue(options).onEvent?.(event),
    });
  };
  const client = shallowRef(make());
  const state = shallowRef(client.value.getState());
  let end = () => {};
  const begin = () => {
    const unsubscribe = client.value.subscribe(() => (state.value = client.value.getState()));
    end = () => {
      unsubscribe();
      client.value.stop();
    };
    client.value.start();
  };
  watch(
    () => {
      const { url, botId, userId } = toValue(options);
      return [url, botId, userId];
    },
    () => {
      end();
      client.value = make();
      begin();
    },
  );
  begin();
  onScopeDispose(() => end());
  return { state, client };
}
