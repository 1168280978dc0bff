// The page: fetches the gateway's URL and a token from the local stack, and shows the chat.
// #token=... in the address selects another customer's token, #lang=ja another language; both are removed from the address.
import { Chat } from "/chat.js";

const fragment = new URLSearchParams(location.hash.slice(1));
history.replaceState(null, "", location.pathname);
const chat = new Chat(document.querySelector("main"), { lang: fragment.get("lang") ?? "auto" });
document.documentElement.lang = document.querySelector(".manga-chat").lang;
globalThis.mangaChat = chat; // for tests and benchmarks
const response = await fetch("/connect.json", { cache: "no-store" });
const options = await response.json();
chat.connect({ ...options, token: fragment.get("token") ?? options.token });
