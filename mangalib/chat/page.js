// The page: asks the local stack where the service is and who one is, and shows the chat.
// #token=... in the address takes another customer's token, #lang=ja another language; neither stays in the address.
import { Chat } from "/chat.js";

const wanted = new URLSearchParams(location.hash.slice(1));
history.replaceState(null, "", location.pathname);
const chat = new Chat(document.querySelector("main"), { lang: wanted.get("lang") ?? "auto" });
document.documentElement.lang = document.querySelector(".manga-chat").lang;
globalThis.mangaChat = chat; // for who measures
const answer = await fetch("/connect.json", { cache: "no-store" });
const options = await answer.json();
chat.connect({ ...options, token: wanted.get("token") ?? options.token });
