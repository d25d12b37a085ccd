//! A connection that can be cut: everything from a process to push0 goes through a relay on loopback, which drops, stalls or half-closes it.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread;
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Cut {
    /// Connections end; new ones are closed at once.
    Drop = 1,
    /// Nothing goes through in either direction, and nobody is told.
    Stall,
    /// What is asked arrives, and no answer comes back. Afterwards the connections end: the answers are lost.
    Deaf,
    /// The answers' direction is closed in an orderly way; what is asked still arrives. Afterwards the connections end.
    HalfClose,
}

const WHOLE: u8 = 0;

struct State {
    /// 0, or a [`Cut`].
    now: AtomicU8,
    is_over: AtomicBool,
}

impl State {
    fn is(&self, cut: Cut) -> bool {
        self.now.load(Ordering::Relaxed) == cut as u8
    }
}

pub struct Link {
    pub address: SocketAddr,
    state: Arc<State>,
}

/// How long a relay looks at one connection before it looks at what was asked of it.
const TURN: Duration = Duration::from_millis(20);

impl Link {
    /// A relay to an address, which need not answer yet.
    pub fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::new(State { now: AtomicU8::new(WHOLE), is_over: AtomicBool::new(false) });
        let (target, shared) = (target.to_owned(), state.clone());
        thread::spawn(move || accept(&listener, &target, &shared));
        Self { address, state }
    }

    pub fn cut(&self, how: Cut) {
        self.state.now.store(how as u8, Ordering::Relaxed);
    }

    pub fn mend(&self) {
        self.state.now.store(WHOLE, Ordering::Relaxed);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::Relaxed);
        // Wakes the one who accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn accept(listener: &TcpListener, target: &str, state: &Arc<State>) {
    for client in listener.incoming() {
        if state.is_over.load(Ordering::Relaxed) {
            return;
        }
        let Ok(client) = client else { continue };
        if state.is(Cut::Drop) {
            continue;
        }
        let (target, state) = (target.to_owned(), state.clone());
        thread::spawn(move || {
            // A listener that is gone is a connection that ends.
            if let Ok(server) = TcpStream::connect(target) {
                relay(client, server, &state);
            }
        });
    }
}

fn relay(client: TcpStream, server: TcpStream, state: &Arc<State>) {
    let (Ok(client2), Ok(server2)) = (client.try_clone(), server.try_clone()) else { return };
    let tainted = Arc::new(AtomicBool::new(false));
    let answers = {
        let (state, tainted) = (state.clone(), tainted.clone());
        thread::spawn(move || carry(server2, client2, true, &state, &tainted))
    };
    carry(client, server, false, state, &tainted);
    let _ = answers.join();
}

/// One direction, until its end.
fn carry(mut from: TcpStream, mut to: TcpStream, is_answers: bool, state: &State, tainted: &AtomicBool) {
    let end = |from: &TcpStream, to: &TcpStream| {
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    };
    let _ = from.set_read_timeout(Some(TURN));
    let _ = to.set_write_timeout(Some(Duration::from_secs(10)));
    let _ = to.set_nodelay(true);
    let mut is_closed = false;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let now = state.now.load(Ordering::Relaxed);
        let is_lossy = state.is(Cut::Deaf) || state.is(Cut::HalfClose);
        if is_lossy {
            tainted.store(true, Ordering::Relaxed);
        }
        if state.is_over.load(Ordering::Relaxed)
            || state.is(Cut::Drop)
            || (tainted.load(Ordering::Relaxed) && now == WHOLE)
        {
            return end(&from, &to);
        }
        if state.is(Cut::Stall) || (is_answers && is_lossy) {
            if state.is(Cut::HalfClose) && !is_closed {
                let _ = to.shutdown(Shutdown::Write);
                is_closed = true;
            }
            thread::sleep(TURN);
            continue;
        }
        match from.read(&mut buffer) {
            Ok(0) => {
                // Closed in an orderly way: passed on, and the other direction goes on by itself.
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            Ok(read) => {
                if to.write_all(&buffer[..read]).is_err() {
                    return end(&from, &to);
                }
            }
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => return end(&from, &to),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    /// A server that says back what it hears, byte by byte, and tells how many there were.
    fn echo() -> (String, std::sync::mpsc::Receiver<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (heard, hears) = std::sync::mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (heard, mut answers) = (heard.clone(), stream.try_clone().unwrap());
                thread::spawn(move || {
                    for byte in std::io::BufReader::new(stream).bytes().map_while(Result::ok) {
                        let _ = heard.send(byte);
                        let _ = answers.write_all(&[byte]);
                    }
                });
            }
        });
        (address, hears)
    }

    fn ask(stream: &mut TcpStream, byte: u8) -> std::io::Result<u8> {
        stream.write_all(&[byte])?;
        let mut answer = [0];
        stream.read_exact(&mut answer).map(|()| answer[0])
    }

    #[test]
    fn a_link_carries_and_each_cut_does_what_it_says() {
        let (server, hears) = echo();
        let link = Link::to(&server);
        let connect = || {
            let stream = TcpStream::connect(link.address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            stream
        };
        let mut stream = connect();
        assert_eq!(ask(&mut stream, 1).unwrap(), 1);
        assert_eq!(hears.recv().unwrap(), 1);

        link.cut(Cut::Stall);
        // One that was being read may still go through.
        thread::sleep(TURN * 3);
        stream.write_all(&[2]).unwrap();
        assert!(hears.recv_timeout(TURN * 5).is_err(), "nothing goes through");
        link.mend();
        let mut answer = [0];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [2], "and nothing is lost");
        assert_eq!(hears.recv().unwrap(), 2);

        link.cut(Cut::Deaf);
        thread::sleep(TURN * 3);
        stream.write_all(&[3]).unwrap();
        assert_eq!(hears.recv().unwrap(), 3);
        link.mend();
        assert!(stream.read_exact(&mut answer).is_err(), "the answer is lost, and the connection with it");

        let mut stream = connect();
        assert_eq!(ask(&mut stream, 4).unwrap(), 4);
        link.cut(Cut::HalfClose);
        assert_eq!(stream.read_exact(&mut answer).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        assert_eq!(hears.recv().unwrap(), 4);
        stream.write_all(&[5]).unwrap();
        assert_eq!(hears.recv().unwrap(), 5, "what is asked still arrives");
        link.mend();

        let mut stream = connect();
        assert_eq!(ask(&mut stream, 6).unwrap(), 6);
        link.cut(Cut::Drop);
        assert!(stream.read_exact(&mut answer).is_err());
        let refused = ask(&mut connect(), 7);
        assert!(refused.is_err(), "{refused:?}");
        link.mend();
        assert_eq!(ask(&mut connect(), 8).unwrap(), 8);
    }
}
