//! What a look allocates does not grow with the sockets: only with its groups, and with the doublings of what holds them.

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};

use unwait::attribute::{Attributor, DescriptorAsk};
use unwait::clock::SystemClock;
use unwait::collect::{Ask, Collector};

/// Counts what the system's allocator is asked for.
struct Counting;

static ASKED: AtomicU64 = AtomicU64::new(0);

// SAFETY: all of it is the system's allocator, which is asked the same.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ASKED.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// So many connections of which the peer has closed its half.
fn leak(listener: &TcpListener, count: usize) -> Vec<(TcpStream, TcpStream)> {
    let one = |_| {
        let client = TcpStream::connect(listener.local_addr().expect("it listens")).expect("over loopback");
        let (server, _) = listener.accept().expect("it was connected");
        server.shutdown(Shutdown::Write).expect("it is connected");
        (client, server)
    };
    (0..count).map(one).collect()
}

#[test]
fn a_look_makes_no_allocation_a_socket() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("over loopback");
    let mut collector = Collector::new().expect("the kernel answers");
    let mut attributor = Attributor::new(vec![]);
    let mut look = || {
        let before = ASKED.load(Ordering::Relaxed);
        let snapshot = collector.snapshot(&SystemClock, Ask::default()).expect("the kernel answers");
        let census = attributor.attribute(snapshot, DescriptorAsk::Skip, &SystemClock);
        (ASKED.load(Ordering::Relaxed) - before, census.host_close_wait())
    };
    // A few hundred: more that still may send would be more questions, and a search for what no cgroup tells more inodes.
    let mut held = leak(&listener, 50);
    let few = (0..5).map(|_| look()).min().expect("five looks");
    held.extend(leak(&listener, 350));
    let many = (0..5).map(|_| look()).min().expect("five looks");
    // Other tests open and close some of their own meanwhile.
    assert!(many.1 >= few.1 + 300, "{} and then {} sockets were seen", few.1, many.1);
    assert!(many.0 < few.0 + 100, "{} allocations for {} sockets, {} for {}", few.0, few.1, many.0, many.1);
}
