// Takes committed facts from the effects socket, with a PULL socket.
//
//     node puller.mjs DIR [COUNT]
//
// Each fact goes to one of the pullers that are connected, at most once: what a puller has received, or still has in
// its buffer, is lost when it dies. What must not be lost is leased: worker.mjs.

import { Pull } from "zeromq";
import { unpack } from "./wire.mjs";

const [directory, count = Infinity] = process.argv.slice(2);
const effects = new Pull({
  linger: 0,
  receiveHighWaterMark: 64, // what waits here goes to nobody else
});
effects.connect(`ipc://${directory}/effects.sock`); // and again by itself, whenever an engine starts
for (let taken = 0; taken < Number(count); taken++) {
  const [frame] = await effects.receive();
  const event = unpack(frame);
  console.log(String(event.position), event.type, String(event.session_id));
}
effects.close();
