// SPDX-License-Identifier: GPL-3.0-or-later

package haiku

import "math/rand/v2"

// Minute spells a minute of the hour as the bundled model was taught to.
func Minute(minute int) string {
	small := []string{
		"zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
		"thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
	}
	if minute < len(small) {
		return small[minute]
	}
	tens := []string{"twenty", "thirty", "forty", "fifty"}[minute/10-2]
	if minute%10 == 0 {
		return tens
	}
	return tens + "-" + small[minute%10]
}

// Topic returns one of the subjects that the bundled model has word lists for.
func Topic() string {
	topics := []string{
		"GPUs", "rain", "unit tests", "coffee", "winter", "a queue", "the sea", "mountains", "the moon", "stars", "cats", "frogs", "tea", "old computers",
		"autumn", "snow", "sunrise", "a job queue", "spring", "the night sky",
	}
	return topics[rand.IntN(len(topics))]
}
