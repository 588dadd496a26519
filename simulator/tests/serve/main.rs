//! Model servers over loopback HTTP: answers as vLLM 0.32.0 gave them, streams token by token, and what may befall a server.

mod answers;
mod faults;
mod limits;
mod process;
mod recorded;
mod scene;
mod servers;
