//! A TCP proxy in front of a portal, which can be cut: connections end and new ones are refused, as if a link were lost.

use anyhow::Result;
use std::io::ErrorKind;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

pub struct Proxy {
    listen: String,
    target: String,
    running: Option<Running>,
}

struct Running {
    stop: Arc<AtomicBool>,
    /// The near end of each connection; the other one follows it.
    open: Arc<Mutex<Vec<TcpStream>>>,
    thread: JoinHandle<()>,
}

impl Proxy {
    pub fn start(listen: String, target: String) -> Result<Proxy> {
        let mut new = Proxy { listen, target, running: None };
        new.mend()?;
        Ok(new)
    }

    /// Takes connections again.
    pub fn mend(&mut self) -> Result<()> {
        let listener = TcpListener::bind(&self.listen)?;
        listener.set_nonblocking(true)?;
        let (stop, open) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (stopped, opened, target) = (stop.clone(), Arc::clone(&open), self.target.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    // Without a controller behind it the connection ends at once.
                    Ok((near, _)) => drop(join(near, &target, &opened)),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(5)),
                    Err(_) => break,
                }
            }
        });
        self.running = Some(Running { stop, open, thread });
        Ok(())
    }

    /// How many connections it ended.
    pub fn cut(&mut self) -> usize {
        let Some(running) = self.running.take() else { return 0 };
        running.stop.store(true, Ordering::Relaxed);
        running.thread.join().expect("the proxy does not panic");
        let open = running.open.lock().expect("nobody panics with it");
        open.iter().filter(|stream| stream.shutdown(Shutdown::Both).is_ok()).count()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
    }
}

fn join(near: TcpStream, target: &str, open: &Mutex<Vec<TcpStream>>) -> Result<()> {
    let far = TcpStream::connect(target)?;
    for stream in [&near, &far] {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
    }
    let mut open = open.lock().expect("nobody panics with it");
    open.push(near.try_clone()?);
    carry(near.try_clone()?, far.try_clone()?);
    carry(far, near);
    Ok(())
}

/// Both directions end together.
fn carry(mut from: TcpStream, mut to: TcpStream) {
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    });
}
