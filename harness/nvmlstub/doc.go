// SPDX-License-Identifier: GPL-3.0-or-later

// Package nvmlstub builds a stand-in for NVIDIA's libnvidia-ml.so.1, and writes the state that the stand-in answers from. So code that reads GPUs
// through NVML can run on a machine without a GPU, with the real binding.
//
// The state is a text file that is read again on each call. The environment variable LLORCH_NVML_STUB names it. Without the file there is no driver.
// Its lines:
//
//	driver 570.86.10
//	cuda 12080
//	card 0 uuid=GPU-… name="NVIDIA GeForce RTX 3090" total=25769803776 used=… util=.. temp=.. power=.. [energy=.. flow=..] [ecc=..]
//	process 0 pid=123 used=…
//	xid 0 79 seq=1     an event of card 0, delivered once to each event set that was made before it
//	ecc 0 seq=2        an uncorrectable memory error of card 0, as an event
//	lost               the driver went away
//	lost 0             card 0 fell off the bus
//
// A card's counter of energy shows `energy`, and `flow` for each second of the machine's clock. So it grows by itself, and never goes back as long as
// nobody lowers them.
//
// The used memory of a card is its own `used`, which belongs to no named process, plus what its processes hold. A running program claims memory with a
// `process` line in the directory LLORCH_NVML_STUB + ".d", in a file that is named by its pid. The claim ends with the program, however that
// ends.
package nvmlstub
