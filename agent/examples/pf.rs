//! x
fn main(){ for i in nodescope::datapath::preflight() { println!("{} {:?} {}", i.name, i.verdict, i.evidence); } }
