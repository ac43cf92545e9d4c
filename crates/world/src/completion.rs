//! The result of an operation that is often there at once: a value, or a future of it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

pub type LocalFuture<T> = Pin<Box<dyn Future<Output = T>>>;

/// `Ready` costs no allocation and no trip through the executor; callers on a hot path look before they await.
pub enum Completion<T> {
    Ready(T),
    Pending(LocalFuture<T>),
    /// Already handed out. Polling it again is a programmer's error.
    Taken,
}

impl<T> Completion<T> {
    pub fn pending(future: impl Future<Output = T> + 'static) -> Self {
        Completion::Pending(Box::pin(future))
    }
}

// Nothing is pinned in place: the value moves out when ready, the future is behind a box.
impl<T> Unpin for Completion<T> {}

impl<T> Future for Completion<T> {
    type Output = T;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        if let Completion::Pending(future) = &mut *self {
            let value = std::task::ready!(future.as_mut().poll(context));
            *self = Completion::Taken;
            return Poll::Ready(value);
        }
        match std::mem::replace(&mut *self, Completion::Taken) {
            Completion::Ready(value) => Poll::Ready(value),
            Completion::Taken | Completion::Pending(_) => panic!("a completion was polled after it had been taken"),
        }
    }
}
