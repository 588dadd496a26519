//! What a picker does, as specifications: when it reads, whom it suspects, what it weighs, and what its receipts say.

mod pool;
mod placing;
mod reading;
mod refusing;
mod suspecting;
