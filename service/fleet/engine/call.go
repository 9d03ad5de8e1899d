// SPDX-License-Identifier: GPL-3.0-or-later

package engine

import (
	"crypto/sha256"
	"math/big"
	"strconv"
)

// callIDLength is that of a call's id. The strictest known template, Mistral's, asks for ids of 9 letters and digits.
const callIDLength = 9

// CallID names call number n of an answer. It depends on nothing but the request's digest and the number: an answer that is decoded again has
// the same ids, since they are part of its transcript (LO-411).
func CallID(requestDigest string, n int) string {
	sum := sha256.Sum256([]byte(requestDigest + " " + strconv.Itoa(n)))
	id := new(big.Int).SetBytes(sum[:]).Text(62) // some 43 digits
	return id[len(id)-callIDLength:]
}
