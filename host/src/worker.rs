//! A task's way through the house: claim → route → run → settle.
