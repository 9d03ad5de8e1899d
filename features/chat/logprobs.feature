Feature: Log probabilities
  A task that asks for them is told how likely the model held each token of its answer, and which others were likely in its place.

  @LO-450 @LO-451
  Scenario: They come with the tokens, survive a kill -9, and are the same when the task is decoded again
    Given the settings
      | artifacts | {keep_prompts: true, keep_transcripts: true} |
    And a daemon whose pool has
      | replicas | 2  |
      | pace     | 15 |
    When I submit task "long" with
      | seed         | 7    |
      | logprobs     | true |
      | top_logprobs | 3    |
    And I follow task "long" as "cut"
    Then stream "cut" has 6 tokens
    When I kill the daemon
    Then stream "cut" breaks off
    When I start the daemon again
    And I follow task "long" as "resumed", from where "cut" broke off
    And I follow task "long" as "whole"
    Then streams "resumed" and "whole" brought the same bytes
    And stream "whole" tells 3 alternatives of each token
    When I kill the daemon
    And I start the daemon again
    And I follow task "long" as "recorded"
    Then streams "recorded" and "whole" brought the same bytes
    When I submit task "bare" with
      | seed     | 7    |
      | logprobs | true |
    And I follow task "bare"
    Then stream "bare" tells 0 alternatives of each token
    And the receipts of "bare" and "whole" agree in "transcript_sha256"
    And the receipts of "bare" and "whole" differ in "request_digest"
    When I run "llama-orch replay {long}"
    Then it exits with 0
    And it says "match: "

  @LO-450
  Scenario Outline: What contradicts itself is refused by its name
    Given the shared daemon
    When I submit task "bad" with
      | <field> | <value> |
      | <other> | <worth> |
    Then the answer is 400 INVALID_PARAMS
    And its message says "<says>"
    And the daemon still serves

    Examples:
      | field        | value | other        | worth     | says                                                            |
      | top_logprobs | 2     | seed         | 7         | `top_logprobs` is for `logprobs`                                |
      | logprobs     | true  | top_logprobs | 21        | `top_logprobs`                                                  |
      | logprobs     | true  | top_logprobs | -1        | `top_logprobs`                                                  |
      | logprobs     | true  | max_tokens   | 65537     | `max_tokens` must be at most 65536                              |
      | logprobs     | true  | workload     | embedding | only completions take                                           |
