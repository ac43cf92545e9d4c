//! A connection's socket, its buffers and its part of the worker's memory: what one turn of it reads, sends and holds, the
//! same for every protocol.
//!
//! A turn is bounded, so that connections of one worker take turns. A client that does not read is not read from either.

use super::channel::Channel;
use super::input::{INPUT_BYTES, Input};
use super::payload::Part;
use base::{Output, Room};
use bytes::BytesMut;
use std::io;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Data with more than this missing is read straight into its own memory.
const IN_PLACE_BYTES: usize = 16 << 10;
/// After data of at least this size the next read is a small one: it finds the next header, and the data behind it goes
/// in place instead of through the input buffer.
pub const LARGE_DATA_BYTES: usize = 64 << 10;
const SMALL_READ_BYTES: usize = 4096;
/// Requests, and reads, after which a connection lets others have their turn. A quarter of a millisecond at 2 us each.
pub const TURN_REQUESTS: u32 = 128;
pub const TURN_READS: u32 = 16;
/// How long a connection that takes no more requests may take for its last answers.
pub const GRACE: Duration = Duration::from_secs(5);

/// How far receiving got.
pub enum Received {
    /// The socket is empty; we are woken when it is not.
    All,
    /// There may be more.
    Some,
    /// The session takes no more for now.
    Full,
    Ended,
}

pub struct Line {
    pub channel: Channel,
    pub out: Output,
    pub input: Input,
    pub part: Part,
    /// Large data came last.
    pub large_data: bool,
    /// A byte was read or sent in this turn.
    pub moved: bool,
    will_complain: bool,
}

/// How a session stands at the end of a turn.
pub struct Standing {
    pub held_bytes: u64,
    /// It is the client's turn to send or to read.
    pub waits_for_client: bool,
    /// It would take on more if others held less.
    pub waits_for_room: bool,
}

impl Line {
    pub fn new(channel: Channel, out: Output, unread: Vec<u8>, part: Part) -> Line {
        let input = Input::holding(unread);
        Line { channel, out, input, part, large_data: false, moved: false, will_complain: false }
    }

    /// Before a turn: what may be under way in it, within what the protocol allows. `None`: the connection is cut off.
    pub fn begin(&mut self, context: &Context<'_>, whole: Room) -> Option<Room> {
        self.moved = false;
        let Room { payload_bytes, single_bytes } = self.part.room(context.waker())?;
        Some(Room { payload_bytes: payload_bytes.min(whole.payload_bytes), single_bytes })
    }

    /// After a turn. True: [`Line::complain`] is to be called after [`super::payload::PATIENCE`].
    pub fn settle(&mut self, standing: &Standing, context: &Context<'_>, now: Instant) -> bool {
        self.part.settle(standing.held_bytes, standing.waits_for_client, self.moved, now);
        if !self.part.wait(standing.waits_for_room) {
            return false;
        }
        // What there is may be enough for it now that it is in the queue.
        context.waker().wake_by_ref();
        !std::mem::replace(&mut self.will_complain, true)
    }

    /// Cuts off those who keep this one waiting for too long. True: to be called again as much later.
    pub fn complain(&mut self, now: Instant) -> bool {
        self.will_complain = self.part.complain(now);
        self.will_complain
    }

    /// Reads once: in place if `payload` misses much, else into the input, which is empty. `free_bytes`: what the session
    /// has room for.
    pub fn read(
        &mut self,
        context: &mut Context<'_>,
        payload: Option<(&mut BytesMut, usize)>,
        free_bytes: u64,
    ) -> Poll<io::Result<usize>> {
        let read = match payload {
            Some((payload, missing)) if missing >= IN_PLACE_BYTES && self.channel.reads_in_place() => {
                self.large_data = true;
                self.channel.poll_read_into(context, payload, missing)
            }
            _ => {
                let limit = match std::mem::take(&mut self.large_data) {
                    true => SMALL_READ_BYTES,
                    // What cannot be taken on stays in the socket: a thousand connections that wait would keep 256 KiB each.
                    false => usize::try_from(free_bytes).unwrap_or(INPUT_BYTES).clamp(SMALL_READ_BYTES, INPUT_BYTES),
                };
                self.input.fill(limit, |buffer| self.channel.poll_read(context, buffer))
            }
        };
        self.moved |= matches!(read, Poll::Ready(Ok(1..)));
        read
    }

    /// Sends what is in the output.
    pub fn send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let unsent = self.out.pending_bytes();
        let sent = self.channel.poll_write(context, &mut self.out);
        self.moved |= self.out.pending_bytes() < unsent;
        sent
    }
}
