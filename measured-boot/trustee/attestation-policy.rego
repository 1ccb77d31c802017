# Attestation policy for Trustee (policy id `default_cpu`). Says how much of an image's evidence is what
# `measured-boot predict` wrote into the message for the reference value service.
#
# Three claims, in the tiers of AR4SI: up to 31 affirming, from 32 a warning, from 96 contraindicated. Each
# starts at its worst, so that evidence of another kind, and a reference value that is not there, affirm
# nothing.
package policy

import rego.v1

default executables := 33

default hardware := 97

default configuration := 36

trust_claims := {
	"executables": executables,
	"hardware": hardware,
	"configuration": configuration,
}

# SEV-SNP: the launch digest covers firmware, kernel, initrd, command line and vCPUs.
executables := 3 if {
	input.snp.measurement in query_reference_value("snp_launch_measurement")
}

# The TCB is the site's own choice: `snp_bootloader` and the others are lists that the site sets.
hardware := 2 if {
	input.snp.reported_tcb_bootloader in query_reference_value("snp_bootloader")
	input.snp.reported_tcb_tee in query_reference_value("snp_tee_svn")
	input.snp.reported_tcb_snp in query_reference_value("snp_snp_svn")
	input.snp.reported_tcb_microcode in query_reference_value("snp_microcode")
}

configuration := 2 if {
	off(input.snp.policy_debug_allowed)
	off(input.snp.policy_migrate_ma)
}

# TDX: what the VMM loaded, and what each stage measured of the next.
executables := 3 if {
	registers := input.tdx.quote.body
	registers.mr_td in query_reference_value("mr_td")
	registers.rtmr_1 in query_reference_value("rtmr_1")
	registers.rtmr_2 in query_reference_value("rtmr_2")
	registers.rtmr_3 in query_reference_value("rtmr_3")
}

hardware := 2 if {
	input.tdx.tcb_status == "UpToDate"
}

configuration := 2 if {
	off(input.tdx.td_attributes.debug)
	machine_of_log
}

# RTMR0 is the machine's own. A prediction without a log says that it is not judged.
machine_of_log if query_reference_value("rtmr_0") == "ignored"

machine_of_log if input.tdx.quote.body.rtmr_0 in query_reference_value("rtmr_0")

# TPM: every predicted register at once; the firmware's registers of one recorded build at once; a key that
# was enrolled before. Without the last, any software TPM would do.
executables := 3 if {
	registers := query_reference_value("tpm_registers")
	is_object(registers)
	registers != {}
	every name, accepted in registers {
		input.tpm[name] in accepted
	}
}

hardware := 2 if {
	input.tpm.ak_public in query_reference_value("trusted_aks")
}

configuration := 2 if {
	builds := query_reference_value("tpm_firmware")
	is_array(builds)
	some build in builds
	build != {}
	every name, value in build {
		input.tpm[name] == value
	}
}

# Verifiers write a flag as a number, a text or a truth value.
off(flag) if flag in {0, "0", false}
