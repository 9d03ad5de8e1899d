Feature: Batches
  A client hands over many requests at once, and fetches the answers later. A line of a batch is a task like any other, but it takes nobody's place, and
  whatever dies meanwhile, each line has one result.

  @LO-435 @LO-436 @LO-437 @LO-439
  Scenario: The daemon is killed in the middle of a batch, twice
    Given a daemon whose pool has
      | pace | 60 |
    When I upload a file "frogs" of 40 completions of 6 tokens
    And I make a batch "shaken" of the file "frogs"
    Then at least 5 lines of the batch "shaken" have completed
    When I kill the daemon
    And I start the daemon again
    Then at least 12 lines of the batch "shaken" have completed
    When I delete the file "frogs", which is answered with 409
    And I kill the daemon
    And I start the daemon again
    Then the batch "shaken" comes to have
      | status                   | completed |
      | request_counts.total     | 40        |
      | request_counts.completed | 40        |
      | request_counts.failed    | 0         |
    And the results of the batch "shaken" have each of 40 lines once
    When I make a batch "undisturbed" of the file "frogs"
    Then the batch "undisturbed" comes to have
      | status | completed |
    And the outputs of the batches "shaken" and "undisturbed" say the same
    When I delete the file "frogs", which is answered with 200
    Then the results of the batch "shaken" have each of 40 lines once

  @LO-444
  Scenario: A line that runs makes way for an interactive task
    Given a fake engine with 1 slots
    And the fake engine's script is
      """
      {"tokens": 3, "stepped": true, "match": "haiku"}
      """
    And a daemon in front of a fake engine
    When I upload a file "frogs" of 3 completions of 3 tokens
    And I make a batch "patient" of the file "frogs"
    Then the fake engine has come to busy 1
    When the fake engine releases 1 tokens
    And I submit an interactive task "urgent"
    Then the fake engine has come to canceled 1
    When the fake engine releases 3 tokens
    Then task "urgent" is completed
    And the batch "patient" comes to have
      | status                   | in_progress |
      | request_counts.completed | 0           |
    When the fake engine releases 100 tokens
    Then the batch "patient" comes to have
      | status                   | completed |
      | request_counts.completed | 3         |
    And the results of the batch "patient" have each of 3 lines once
    And the metrics have
      | llorch_batch_lines_interrupted_total{pool_id="default"} | 1 |
    And every series is in the metrics contract, with its labels and values

  @LO-437
  Scenario: Interactive tasks come first, and lines take no place in a full queue
    Given a fake engine with 1 slots
    And the fake engine's script is
      """
      {"tokens": 2, "stepped": true, "match": "haiku"}
      """
    And a daemon in front of a fake engine whose pool has
      | queue | {capacity: 1, full_policy: drop-lru} |
    When I submit an interactive task "running"
    Then the fake engine has come to busy 1
    When I upload a file "frogs" of 20 completions of 2 tokens
    And I make a batch "waiting" of the file "frogs"
    Then the batch "waiting" comes to have
      | status | in_progress |
    When I submit an interactive task "dropped"
    And I submit an interactive task "first"
    Then task "dropped" is failed
    When the fake engine releases 4 tokens
    Then task "first" is completed
    When the fake engine releases 200 tokens
    Then the batch "waiting" comes to have
      | status                   | completed |
      | request_counts.completed | 20        |
    And the metrics have
      | llorch_batch_lines_ended_total{front="openai",outcome="completed"} | 20 |
      | llorch_batch_lines{state="waiting"}                                | 0  |
      | tasks_canceled_total{reason="drop_lru"}                            | 1  |
    And every series is in the metrics contract, with its labels and values

  @LO-438
  Scenario: A batch is canceled
    Given a fake engine with 1 slots
    And the fake engine's script is
      """
      {"tokens": 2, "stepped": true, "match": "haiku"}
      """
    And a daemon in front of a fake engine
    When I upload a file "frogs" of 30 completions of 2 tokens
    And I make a batch "canceled" of the file "frogs"
    Then the fake engine has come to busy 1
    When the fake engine releases 4 tokens
    Then at least 2 lines of the batch "canceled" have completed
    When I cancel the batch "canceled"
    Then the batch "canceled" comes to have
      | status                   | cancelled |
      | request_counts.completed | 2         |
      | request_counts.failed    | 28        |
    And the fake engine has come to canceled 1
    And the results of the batch "canceled" have each of 30 lines once
    And the error of the line "c30" of the batch "canceled" says "batch_cancelled"

  @LO-438
  Scenario: The window of a batch is over
    Given a fake engine with 1 slots
    And the fake engine's script is
      """
      {"tokens": 2, "stepped": true, "match": "haiku"}
      """
    And a daemon in front of a fake engine
    When I upload a file "frogs" of 30 completions of 2 tokens
    And I make a batch "late" of the file "frogs" with the window "2s"
    Then the fake engine has come to busy 1
    And the batch "late" comes to have
      | request_counts.failed | 29 |
    When the fake engine releases 2 tokens
    Then the batch "late" comes to have
      | status                   | expired |
      | request_counts.completed | 1       |
      | request_counts.failed    | 29      |
    And the error of the line "c30" of the batch "late" says "batch_expired"

  @LO-436 @LO-439
  Scenario: A broken line fails alone
    Given the shared daemon
    When I upload a file "mixed" of
      """
      {"custom_id":"c1","method":"POST","url":"/v1/completions","body":{"model":"haiku","prompt":"Frogs","max_tokens":3}}
      {"custom_id":"c2","method":"POST","url":"/v1/completions","body":{"model":"gone","prompt":"Frogs"}}
      {"custom_id":"c3","method":"POST","url":"/v1/chat/completions","body":{"model":"haiku"}}
      {"custom_id":"c4","method":"POST","url":"/v1/completions","body":{"model":"haiku","prompt":"Frogs","max_tokens":0}}
      {"custom_id":"c5","method":"POST","url":"/v1/completions","body":{"model":"haiku","prompt":"Toads","max_tokens":3}}
      """
    And I make a batch "mixed" of the file "mixed"
    Then the batch "mixed" comes to have
      | status                   | completed |
      | request_counts.completed | 2         |
      | request_counts.failed    | 3         |
    And the results of the batch "mixed" have each of 5 lines once
    And the error of the line "c2" of the batch "mixed" says "model_not_found"
    And the error of the line "c3" of the batch "mixed" says "mismatched_url"
    And the error of the line "c4" of the batch "mixed" says "max_tokens"
    When I upload a file "rubbish" of
      """
      no JSON
      """
    And I make a batch "rubbish" of the file "rubbish"
    Then the batch "rubbish" comes to have
      | status             | failed            |
      | errors.data.0.code | invalid_json_line |
      | errors.data.0.line | 1                 |

  @LO-440
  Scenario: Message batches
    Given a daemon whose pool has
      | pace | 30 |
    When I make a message batch "asked" of 12 requests
    Then the message batch "asked" comes to have
      | processing_status        | ended |
      | request_counts.succeeded | 12    |
    And the results of the message batch "asked" have each of 12 requests once
    When I make a message batch "canceled" of 30 requests
    And I cancel the message batch "canceled"
    Then the message batch "canceled" comes to have
      | processing_status         | ended |
      | request_counts.processing | 0     |
      | request_counts.expired    | 0     |
    And the results of the message batch "canceled" have each of 30 requests once
