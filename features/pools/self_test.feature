Feature: The daemon tests its pools at its start
  Each pool decodes one task and cancels another. A table shows the result to whoever started the daemon.

  @ORCH-3049 @LO-847
  Scenario: A table of all pools is on the terminal, and what it says in the log and in the pool's health
    Given the cards of the reference box
    And a pool "good" of a model of 2 GiB
    And a pool "rests" of a model of 2 GiB with
      | lifecycle | on_demand |
    And a daemon that tests itself
    Then the daemon prints
      | SELF-TEST MODEL PRELOAD DECODE CANCEL METRICS LOG RESULT                                                                   |
      | /^good good passed passed passed passed passed passed: \d+ tokens decoded in \d+ ms, one canceled at event \d+-[0-9a-f]{8};/ |
      | /^rests rests skipped skipped skipped skipped skipped skipped: the pool is loaded when a task needs it$/                   |
    And the log has a line "self-test passed" with
      | pool_id | good |
    And "/v1/pools/good/health" has come to
      | pool.self_test.state         | passed  |
      | pool.self_test.steps.0.step  | preload |
      | pool.self_test.steps.4.state | passed  |
    And "/v1/tasks" has come to
      | tasks.0.actor | self-test |
      | tasks.1.actor | self-test |
