//! The container's default seccomp filter, compiled at build time so that the
//! guest interprets nothing.
//!
//! An allow-list in the spirit of what container runtimes allow a process
//! without capabilities on x86-64, and stricter where the kernel's surface is
//! wide: no `io_uring`, `userfaultfd`, `ptrace`, keys, or sockets other than
//! Unix, IP and route netlink. Whatever is not listed fails with EPERM; another
//! architecture's entry kills the process.

use anyhow::{Context as _, Result};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

mod table;

use table::{ALLOWED, CONDITIONAL, Test};

/// `BPF_LD | BPF_W | BPF_ABS`, `BPF_JMP | BPF_JEQ | BPF_K`, `BPF_RET | BPF_K`
/// (`linux/bpf_common.h`).
const LOAD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
/// `struct seccomp_data`: offsets of `nr` and `arch`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
const SECCOMP_RET_ERRNO: u32 = 0x0005_0000;
const SYS_CLONE3: u32 = 435;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// The default filter as `struct sock_filter` records.
///
/// # Errors
/// Never for this table; what the compiler says otherwise.
pub fn default_filter() -> Result<Vec<u8>> {
    let records = compile()?.into_iter().flat_map(|instruction| {
        let [c0, c1] = instruction.code.to_le_bytes();
        let [k0, k1, k2, k3] = instruction.k.to_le_bytes();
        [c0, c1, instruction.jt, instruction.jf, k0, k1, k2, k3]
    });
    Ok(records.collect())
}

fn compile() -> Result<BpfProgram> {
    let unconditional = ALLOWED.iter().map(|number| Ok((*number, Vec::new())));
    let conditional = CONDITIONAL.iter().map(|(number, alternatives)| {
        let rules = alternatives.iter().map(|tests| {
            let conditions = tests.iter().map(condition).collect::<Result<_>>()?;
            Ok(SeccompRule::new(conditions)?)
        });
        Ok((*number, rules.collect::<Result<_>>()?))
    });
    let filter = SeccompFilter::new(
        unconditional.chain(conditional).collect::<Result<_>>()?,
        SeccompAction::Errno(EPERM),
        SeccompAction::Allow,
        TargetArch::x86_64,
    )
    .context("cannot build seccomp filter")?;
    let mut program = clone3_is_unknown();
    program.extend(BpfProgram::try_from(filter).context("cannot compile seccomp filter")?);
    Ok(program)
}

fn condition(test: &Test) -> Result<SeccompCondition> {
    let (argument, operator, value) = match *test {
        Test::Equal(argument, value) => (argument, SeccompCmpOp::Eq, value),
        Test::NotEqual(argument, value) => (argument, SeccompCmpOp::Ne, value),
        Test::NoneOf(argument, bits) => (argument, SeccompCmpOp::MaskedEq(bits), 0),
    };
    Ok(SeccompCondition::new(
        argument,
        SeccompCmpArgLen::Dword,
        operator,
        value,
    )?)
}

/// A filter cannot see the flags of `clone3`, which are in memory. With ENOSYS
/// every C library falls back to `clone`, whose flags it does see. Placed before
/// the compiled program, which judges everything else, the architecture too.
fn clone3_is_unknown() -> BpfProgram {
    let instruction = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    vec![
        instruction(LOAD, 0, 0, ARCH),
        instruction(JUMP_IF_EQUAL, 0, 3, AUDIT_ARCH_X86_64),
        instruction(LOAD, 0, 0, NUMBER),
        instruction(JUMP_IF_EQUAL, 0, 1, SYS_CLONE3),
        instruction(RETURN, 0, 0, SECCOMP_RET_ERRNO | ENOSYS),
    ]
}

#[cfg(test)]
#[allow(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "test data; an overflow fails the test"
)]
mod tests;
