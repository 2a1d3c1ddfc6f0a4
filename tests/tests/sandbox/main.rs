//! A plugin can do nothing it was not granted, harms nobody but its own task, and survives its host: the real sandbox, a
//! real store, and a guest that offends.

mod grants;
mod limits;
mod outcomes;
mod replay;
mod requests;
mod world;
