//! What a picker does, as specifications: when it reads, whom it suspects, what it weighs, and what its receipts say.

#[path = "picker/pool.rs"]
mod pool;
#[path = "picker/placing.rs"]
mod placing;
#[path = "picker/reading.rs"]
mod reading;
#[path = "picker/suspecting.rs"]
mod suspecting;
