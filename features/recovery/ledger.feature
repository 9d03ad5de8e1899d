Feature: The ledger
  One file has all accepted tasks. It can be checked, copied and read. A damaged file is never overwritten.

  @LO-202
  Scenario: Check, backup and export work while the daemon runs, and after it
    Given a daemon
    When I submit task "kept" with
      | task_id | ledger-1 |
      | seed    | 5        |
    And I follow task "kept"
    Then stream "kept" ends with end
    When I run "orchestratord ledger check --config config.yaml"
    Then it exits with 0
    And it says "1 tasks: 0 queued 0 running 1 completed 0 failed 0 canceled"
    And it says "Nothing is damaged."
    When I run "orchestratord ledger export --config config.yaml"
    Then it exits with 0
    And it says ""task_id":"ledger-1""
    And it says ""transcript_sha256":"
    And it does not say "Write a haiku"
    When I run "orchestratord ledger export --config config.yaml --with-text"
    Then it exits with 0
    And it says "Write a haiku"
    When I run "orchestratord ledger backup --config config.yaml $DIR/copy/state.db"
    Then it exits with 1
    When I run "orchestratord ledger backup --config config.yaml $DIR/copy.db"
    Then it exits with 0
    When I run "orchestratord ledger backup --config config.yaml $DIR/copy.db"
    Then it exits with 1
    And it says "is there already"
    When I stop the daemon
    And I run "orchestratord ledger check --data-dir $DIR/data"
    Then it exits with 0
    And it says "1 tasks: 0 queued 0 running 1 completed 0 failed 0 canceled"

  @LO-202
  Scenario Outline: A ledger that is <how> is named, kept, and set aside on request
    Given a daemon in front of a fake engine
    When I submit task "lost"
    Then task "lost" is completed
    When I stop the daemon
    And the ledger is <how>
    And I run "orchestratord serve --config config.yaml"
    Then it exits with 1
    And it says "$DIR/data/state.db"
    And it says "--ledger-aside"
    And it does not say "goroutine"
    And the ledger is as it was
    When I run "orchestratord ledger check --config config.yaml"
    Then it exits with 1
    And the ledger is as it was
    When I start the daemon again with "--ledger-aside"
    Then the data folder holds a file "state.db.aside-*Z" with the ledger as it was
    And the log has a line "the ledger was set aside, and a new one is begun"
    When I send GET "/v1/tasks/{lost}"
    Then the answer is 404 NOT_FOUND
    When I submit task "new"
    Then task "new" is completed

    Examples:
      | how                     |
      | overwritten at its head |
      | cut to a half           |
      | replaced by a text      |

  @LO-202 @OC-CTRL-2030
  Scenario: While the disk takes nothing, new work is refused and running streams go on
    Given a daemon in front of a fake engine
    And the fake engine's script is
      """
      {"stepped": true, "tokens": 4, "match": "haiku"}
      """
    When I submit task "running"
    And I follow task "running"
    And the fake engine releases 1 token
    Then stream "running" has 1 token
    When the disk takes no more bytes from the daemon
    And I submit task "refused" with
      | task_id | refused-1 |
    Then the answer is 503 LEDGER_UNAVAILABLE
    And its body has
      | retriable      | true |
      | retry_after_ms | > 0  |
    And the log has a line "the ledger cannot write"
    When the fake engine releases 2 tokens
    Then stream "running" has 3 tokens
    When I send GET "/v1/tasks/refused-1"
    Then the answer is 404 NOT_FOUND
    When the fake engine releases 1 token
    Then the log has a line "an outcome cannot be recorded and waits until it can"
    And task "running" is running
    When the disk takes the daemon's bytes again
    Then stream "running" is "started", tokens, "end"
    And the log has a line "the ledger writes again"
    When I submit task "accepted" with
      | task_id | refused-1 |
    Then the answer is 202
    When I kill the daemon
    And the fake engine has come to busy 0
    And I start the daemon again
    And the fake engine releases 4 tokens
    Then task "running" is completed
    And task "accepted" is completed

  @LO-435 @LO-440 @ORCH-3097
  Scenario: While the disk has no room, files, batches and artifacts are refused, and nothing of them is left
    Given a daemon in front of a fake engine
    When the disk takes no more than 500000 bytes of a file from the daemon
    Then a file of 1000000 bytes is refused with 503 and "make room on the disk of the data folder"
    When the disk takes no more bytes from the daemon
    Then a file of 1000 bytes is refused with 503 and "server_error"
    And a message batch is refused with 503 and "overloaded_error"
    When I post to "/v1/artifacts"
      """
      {"kind": "plan", "content": "# A plan"}
      """
    Then the answer is 503 LEDGER_UNAVAILABLE
    And its body has
      | retriable      | true |
      | retry_after_ms | > 0  |
    And no artifact is on the disk
    And the log has a line "an artifact could not be stored"
    When the disk takes the daemon's bytes again
    And I upload a file "frogs" of 1 completions of 3 tokens
    And I make a batch "late" of the file "frogs"
    Then the batch "late" comes to have
      | status | completed |
