# Resource policy for Trustee (policy id `resource-policy`): a resource goes to evidence that the attestation
# policy affirmed in every part, and never to the `sample` attester, which proves nothing.
package policy

import rego.v1

default allow := false

allow if {
	data.plugin == "resource"
	count(input.submods) > 0
	every submod in input.submods {
		submod["ear.status"] == "affirming"
	}
	some tee in ["snp", "tdx", "tpm"]
	input.submods.cpu0["ear.veraison.annotated-evidence"][tee]
	not input.submods.cpu0["ear.veraison.annotated-evidence"].sample
}
