//! The pause image: the process that holds a pod's namespaces open.
//!
//! In: nothing. Out: an OCI archive of one static ELF executable without libc, whose
//! machine code is written out below for x86-64 and AArch64. The process blocks the
//! signals it cares about and waits for them one at a time: SIGCHLD reaps every child
//! that ended (in a pod with a shared PID namespace it is PID 1 and inherits orphans),
//! SIGTERM and SIGINT end it. Blocking instead of installing handlers matters: the
//! kernel drops unblocked signals without a handler when they are sent to a PID 1.

use std::io;

use super::oci::{ImageConfig, Layer, write_archive};

/// The reference under which the pause image is imported.
pub const PAUSE_IMAGE: &str = "gantry.local/pause:1";

const LOAD_ADDRESS: u64 = 0x40_0000;
const ELF_HEADER_LEN: usize = 64;
const PROGRAM_HEADER_LEN: usize = 56;
const CODE_OFFSET: usize = ELF_HEADER_LEN + PROGRAM_HEADER_LEN;

/// Bit n-1 stands for signal n: SIGINT (2), SIGTERM (15), SIGCHLD (17).
const SIGNAL_SET: u64 = 1 << 1 | 1 << 14 | 1 << 16;

/// An architecture the pause program exists for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Machine {
    X86_64,
    Aarch64,
}

/// The pause image's archive for this machine.
pub fn archive() -> io::Result<Vec<u8>> {
    let machine = match std::env::consts::ARCH {
        "x86_64" => Machine::X86_64,
        "aarch64" => Machine::Aarch64,
        other => {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("there is no pause program for the architecture {other}"),
            ));
        }
    };
    let mut layer = Layer::new();
    layer.file("pause", 0o755, &executable(machine))?;
    let config = ImageConfig { entrypoint: vec!["/pause".to_owned()], ..ImageConfig::default() };
    let mut out = Vec::new();
    write_archive(&mut out, PAUSE_IMAGE, &config, &[layer.into_bytes()?])?;
    Ok(out)
}

fn executable(machine: Machine) -> Vec<u8> {
    let code = match machine {
        Machine::X86_64 => x86_64(),
        Machine::Aarch64 => aarch64(),
    };
    let elf_machine: u16 = match machine {
        Machine::X86_64 => 62,
        Machine::Aarch64 => 183,
    };
    let size = (CODE_OFFSET + code.len()) as u64;
    let mut elf = Vec::with_capacity(CODE_OFFSET + code.len());
    // e_ident: 64 bit, little endian, version 1, System V.
    elf.extend_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    elf.extend_from_slice(&2u16.to_le_bytes()); // e_type: executable
    elf.extend_from_slice(&elf_machine.to_le_bytes());
    elf.extend_from_slice(&1u32.to_le_bytes()); // e_version
    elf.extend_from_slice(&(LOAD_ADDRESS + CODE_OFFSET as u64).to_le_bytes()); // e_entry
    elf.extend_from_slice(&(ELF_HEADER_LEN as u64).to_le_bytes()); // e_phoff
    elf.extend_from_slice(&0u64.to_le_bytes()); // e_shoff
    elf.extend_from_slice(&0u32.to_le_bytes()); // e_flags
    elf.extend_from_slice(&(ELF_HEADER_LEN as u16).to_le_bytes());
    elf.extend_from_slice(&(PROGRAM_HEADER_LEN as u16).to_le_bytes());
    elf.extend_from_slice(&1u16.to_le_bytes()); // e_phnum
    elf.extend_from_slice(&[0; 6]); // no section headers
    elf.extend_from_slice(&1u32.to_le_bytes()); // PT_LOAD
    elf.extend_from_slice(&5u32.to_le_bytes()); // readable, executable
    elf.extend_from_slice(&0u64.to_le_bytes()); // p_offset
    elf.extend_from_slice(&LOAD_ADDRESS.to_le_bytes()); // p_vaddr
    elf.extend_from_slice(&LOAD_ADDRESS.to_le_bytes()); // p_paddr
    elf.extend_from_slice(&size.to_le_bytes()); // p_filesz
    elf.extend_from_slice(&size.to_le_bytes()); // p_memsz
    elf.extend_from_slice(&0x1_0000u64.to_le_bytes()); // p_align: the largest page
    elf.extend_from_slice(&code);
    elf
}

/// Machine code with jumps that are filled in once their targets are known.
struct X86 {
    bytes: Vec<u8>,
    /// (position of an 8-bit displacement, label)
    jumps: Vec<(usize, &'static str)>,
    labels: Vec<(&'static str, usize)>,
}

impl X86 {
    fn op(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn label(&mut self, name: &'static str) {
        self.labels.push((name, self.bytes.len()));
    }

    fn jump(&mut self, opcode: u8, target: &'static str) {
        self.op(&[opcode, 0]);
        self.jumps.push((self.bytes.len() - 1, target));
    }

    /// `mov eax, number; syscall`
    fn syscall(&mut self, number: u8) {
        self.op(&[0xb8, number, 0, 0, 0, 0x0f, 0x05]);
    }

    fn finish(mut self) -> Vec<u8> {
        for (at, target) in &self.jumps {
            let to = self.labels.iter().find(|(name, _)| name == target).map_or(0, |(_, to)| *to);
            // Displacements count from the end of the instruction and all fit 8 bits
            // in a program of this size; a test runs it.
            self.bytes[*at] = (to as i64 - (*at as i64 + 1)) as u8;
        }
        self.bytes
    }
}

fn x86_64() -> Vec<u8> {
    const JUMP: u8 = 0xeb;
    const JUMP_IF_EQUAL: u8 = 0x74;
    const JUMP_IF_GREATER: u8 = 0x7f;
    let mut code = X86 { bytes: Vec::new(), jumps: Vec::new(), labels: Vec::new() };
    let mut set = vec![0x48, 0xb8]; // mov rax, SIGNAL_SET
    set.extend_from_slice(&SIGNAL_SET.to_le_bytes());
    code.op(&set);
    code.op(&[0x50]); // push rax
    code.op(&[0x48, 0x89, 0xe3]); // mov rbx, rsp
    // rt_sigprocmask(SIG_BLOCK, set, NULL, 8)
    code.op(&[0x31, 0xff]); // xor edi, edi
    code.op(&[0x48, 0x89, 0xde]); // mov rsi, rbx
    code.op(&[0x31, 0xd2]); // xor edx, edx
    code.op(&[0x41, 0xba, 8, 0, 0, 0]); // mov r10d, 8
    code.syscall(14);
    code.label("wait");
    // rt_sigtimedwait(set, NULL, NULL, 8)
    code.op(&[0x48, 0x89, 0xdf]); // mov rdi, rbx
    code.op(&[0x31, 0xf6]); // xor esi, esi
    code.op(&[0x31, 0xd2]); // xor edx, edx
    code.op(&[0x41, 0xba, 8, 0, 0, 0]); // mov r10d, 8
    code.syscall(128);
    code.op(&[0x83, 0xf8, 17]); // cmp eax, SIGCHLD
    code.jump(JUMP_IF_EQUAL, "reap");
    code.op(&[0x83, 0xf8, 15]); // cmp eax, SIGTERM
    code.jump(JUMP_IF_EQUAL, "end");
    code.op(&[0x83, 0xf8, 2]); // cmp eax, SIGINT
    code.jump(JUMP_IF_EQUAL, "end");
    code.jump(JUMP, "wait");
    code.label("reap");
    // wait4(-1, NULL, WNOHANG, NULL)
    code.op(&[0x48, 0xc7, 0xc7, 0xff, 0xff, 0xff, 0xff]); // mov rdi, -1
    code.op(&[0x31, 0xf6]); // xor esi, esi
    code.op(&[0xba, 1, 0, 0, 0]); // mov edx, 1
    code.op(&[0x45, 0x31, 0xd2]); // xor r10d, r10d
    code.syscall(61);
    code.op(&[0x85, 0xc0]); // test eax, eax
    code.jump(JUMP_IF_GREATER, "reap");
    code.jump(JUMP, "wait");
    code.label("end");
    code.op(&[0x31, 0xff]); // xor edi, edi
    code.syscall(231);
    code.finish()
}

/// One line of AArch64 assembly.
enum Line {
    /// An instruction.
    Op(u32),
    /// A place to branch to.
    Label(&'static str),
    /// A branch, as the instruction without its displacement and its target.
    Branch(u32, &'static str),
}

fn aarch64() -> Vec<u8> {
    use Line::{Branch, Label, Op};
    const B: u32 = 0x1400_0000;
    const B_EQ: u32 = 0x5400_0000;
    const B_GT: u32 = 0x5400_000c;
    const SVC: Line = Op(0xd400_0001);
    let mov = |to: u32, value: u32| Op(0xd280_0000 | value << 5 | to);
    let copy = |to: u32, from: u32| Op(0xaa00_03e0 | from << 16 | to);
    let cmp_w0 = |value: u32| Op(0x7100_001f | value << 10);
    assemble_aarch64(&[
        mov(19, (SIGNAL_SET & 0xffff) as u32),
        Op(0xf2a0_0000 | ((SIGNAL_SET >> 16) as u32) << 5 | 19), // movk x19, #…, lsl 16
        Op(0xf81f_0ff3),                                         // str x19, [sp, #-16]!
        Op(0x9100_03f3),                                         // mov x19, sp
        // rt_sigprocmask(SIG_BLOCK, set, NULL, 8)
        mov(0, 0),
        copy(1, 19),
        mov(2, 0),
        mov(3, 8),
        mov(8, 135),
        SVC,
        Label("wait"),
        // rt_sigtimedwait(set, NULL, NULL, 8)
        copy(0, 19),
        mov(1, 0),
        mov(2, 0),
        mov(3, 8),
        mov(8, 137),
        SVC,
        cmp_w0(17), // SIGCHLD
        Branch(B_EQ, "reap"),
        cmp_w0(15), // SIGTERM
        Branch(B_EQ, "end"),
        cmp_w0(2), // SIGINT
        Branch(B_EQ, "end"),
        Branch(B, "wait"),
        Label("reap"),
        // wait4(-1, NULL, WNOHANG, NULL)
        Op(0x9280_0000), // mov x0, #-1
        mov(1, 0),
        mov(2, 1),
        mov(3, 0),
        mov(8, 260),
        SVC,
        cmp_w0(0),
        Branch(B_GT, "reap"),
        Branch(B, "wait"),
        Label("end"),
        mov(0, 0),
        mov(8, 94), // exit_group
        SVC,
    ])
}

fn assemble_aarch64(lines: &[Line]) -> Vec<u8> {
    let position = |target: &str| {
        let mut at = 0i32;
        for line in lines {
            match line {
                Line::Label(name) if *name == target => break,
                Line::Label(_) => {}
                Line::Op(_) | Line::Branch(..) => at += 1,
            }
        }
        at
    };
    let mut words = Vec::new();
    for line in lines {
        match line {
            Line::Label(_) => {}
            Line::Op(word) => words.push(*word),
            Line::Branch(word, target) => {
                // Displacements count instructions, from the branch itself.
                let by = (position(target) - words.len() as i32) as u32;
                // `b` keeps 26 bits from bit 0, conditional branches 19 from bit 5.
                words.push(if *word == 0x1400_0000 { word | by & 0x3ff_ffff } else { word | (by & 0x7_ffff) << 5 });
            }
        }
    }
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_programs_are_whole_and_small() {
        for machine in [Machine::X86_64, Machine::Aarch64] {
            let elf = executable(machine);
            assert!(elf.len() < 512, "{machine:?} is {} bytes", elf.len());
            let size = u64::from_le_bytes(elf[96..104].try_into().unwrap());
            assert_eq!(size, elf.len() as u64);
        }
        assert_eq!(aarch64().len() % 4, 0);
    }

    /// Runs the program itself: it must stay until it is told to end, and then end well.
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    #[test]
    fn the_program_waits_and_ends_on_sigterm() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pause");
        std::fs::write(&path, executable(Machine::X86_64)).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut child = std::process::Command::new(&path).spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        rustix::process::kill_process(pid, rustix::process::Signal::CHILD).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(child.try_wait().unwrap().is_none(), "SIGCHLD ended it");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}
