// SPDX-License-Identifier: GPL-3.0-or-later

// Package sim runs a load of tasks on a modelled box, on a virtual clock: hours in milliseconds, the same every time. What
// decides is the service's own code (service/flow/queue, service/flow/placement and service/fleet/residency), joined as service/flow/scheduler joins it; a test holds
// the two against each other. What computes is modelled by rates: tokens a second of a model on a class of card, and the
// time of a load. Other policies run on the same model, to compare.
//
// There are no goroutines, no wall clock, and no randomness except the load's seed. .docs/simulation.md says what the model leaves out.
package sim
