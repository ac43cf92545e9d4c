//! Every limit of the API, in one place.

use std::time::Duration;

/// JSON bodies are a handful of fields, or a thousand names of clones: 66 KB. Anything longer is a mistake.
pub const JSON_BYTES_MAX: usize = 128 << 10;

/// Memory for transfers under way, bytes: four clients with four 32 MiB requests each wait for each other rather than
/// take what the engine has. Not below one transfer.
pub const TRANSFERS_BYTES_MAX: usize = 256 << 20;

/// How many connections there may be, and how long each may keep others waiting.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    pub connections_max: usize,
    /// A client that has not sent the head of its request by then is disconnected; the same for an idle kept connection.
    pub head: Duration,
    /// A client that takes no byte of its answer for so long is disconnected.
    pub write_stall: Duration,
    /// Requests under way at shutdown get so long to end.
    pub shutdown: Duration,
}

impl Patience {
    /// Half a minute is more than any client needs that means it; a shutdown must not wait for those that do not.
    pub fn with_connections(connections_max: usize) -> Patience {
        let (head, write_stall) = (Duration::from_secs(30), Duration::from_secs(30));
        Patience { connections_max, head, write_stall, shutdown: Duration::from_secs(5) }
    }
}

/// Head of a request: 64 header lines and 64 KiB are far more than any client sends.
pub const HEAD_BYTES_MAX: usize = 64 << 10;
pub const HEADERS_MAX: usize = 64;

/// vDisks on a page when the client does not say.
pub const LIST_LIMIT_DEFAULT: u32 = 100;

/// Ranges on a page of a comparison when the client does not say.
pub const CHANGES_LIMIT_DEFAULT: u32 = 1_000;
