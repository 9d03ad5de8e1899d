Feature: Every job leaves a proof bundle
  The bundle of a completed, failed or canceled job has what is needed to run the job again and to compare.

  @OC-CTRL-2067 @LO-301
  Scenario: A completed task leaves a bundle without its words, and a replay says match
    Given a daemon
    And the file "prompt.txt"
      """
      Write a haiku about snow containing "three".
      """
    When I submit task "done" with
      | prompt | Write a haiku about snow containing "three". |
      | seed   | 42 |
    And I follow task "done"
    Then stream "done" ends with end
    When I get the proof of task "done"
    Then the answer is 200
    And its body has
      | format                | llama-orch.proof.v1    |
      | outcome               | completed              |
      | seed                  | 42                     |
      | request.kept          | false                  |
      | request.prompt        | absent                 |
      | request.prompt_sha256 | /^[0-9a-f]{64}$/       |
      | transcript.kept       | false                  |
      | transcript.text       | absent                 |
      | transcript.sha256     | /^[0-9a-f]{64}$/       |
      | placement.reasons.0   | /pool default/         |
      | placement.fingerprint | present                |
      | receipt               | present                |
    When I run "llama-orch proof {done}"
    Then it exits with 0
    And it says "by digest"
    When I run "llama-orch replay {done}"
    Then it exits with 0
    And it says "match: "
    When I run "llama-orch replay {done} --prompt-file $DIR/prompt.txt"
    Then it exits with 0
    And it says "match: "
    And no artifact is on the disk

  @OC-CTRL-2067 @LO-301
  Scenario: Words are kept where the configuration says so
    Given the settings
      | artifacts | {keep_prompts: true, keep_transcripts: true} |
    And a daemon
    When I submit task "kept" with
      | prompt | Write a haiku about wind containing "five". |
    And I follow task "kept"
    Then stream "kept" ends with end
    When I get the proof of task "kept"
    Then its body has
      | request.kept    | true                                        |
      | request.prompt  | Write a haiku about wind containing "five". |
      | transcript.text | present                                     |
    When I run "llama-orch replay {kept}"
    Then it exits with 0
    And it says "match: "

  @OC-CTRL-2067
  Scenario: Failed and canceled tasks leave a bundle, too
    Given a pool "resting" of built-in workers with
      | lifecycle | on_demand |
      | pace      | 15        |
    And a daemon
    When I submit task "failed" with
      | prompt | rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain |
    And I follow task "failed"
    Then stream "failed" ends with error INVALID_PARAMS
    When I get the proof of task "failed"
    Then its body has
      | outcome               | failed           |
      | error.code            | INVALID_PARAMS   |
      | request.prompt        | absent           |
      | request.prompt_sha256 | /^[0-9a-f]{64}$/ |
      | receipt               | absent           |
    When I submit task "canceled"
    And I follow task "canceled"
    Then stream "canceled" has 2 tokens
    When I cancel task "canceled"
    Then stream "canceled" ends with error CANCELED
    When I get the proof of task "canceled"
    Then its body has
      | outcome           | canceled |
      | transcript.tokens | >= 2     |
    When I run "llama-orch --json proof {canceled}"
    Then it exits with 0
    And it says "llama-orch.proof.v1"

  @OC-CTRL-2067 @LO-202
  Scenario: A task that ended just before a kill -9 has its bundle
    Given a daemon in front of a fake engine
    And the fake engine's script is
      """
      {"tokens": 3, "match": "haiku"}
      """
    When I submit task "before"
    And I follow task "before"
    Then stream "before" ends with end
    When I kill the daemon
    And I start the daemon again
    And I get the proof of task "before"
    Then the answer is 200
    And its body has
      | outcome               | completed |
      | request.prompt_sha256 | present   |
    And no artifact is on the disk

  @OC-CTRL-2067
  Scenario: Settings that change later do not change a bundle
    Given the settings
      | artifacts | {keep_prompts: true, keep_transcripts: true} |
    And a daemon in front of a fake engine
    And the fake engine's script is
      """
      {"tokens": 3, "match": "haiku"}
      """
    When I submit task "kept" with
      | prompt | a haiku about wind |
    And I follow task "kept"
    Then stream "kept" ends with end
    When I stop the daemon
    And the configuration has the settings
      | artifacts | {keep_prompts: false, keep_transcripts: false} |
    And I start the daemon again
    And I get the proof of task "kept"
    Then its body has
      | request.prompt  | a haiku about wind |
      | transcript.text | present            |

  @OC-CTRL-2067
  Scenario: A bundle outlives its task where the configuration says so
    Given the settings
      | ledger    | {retain_age: 1ms}   |
      | artifacts | {keep_proofs: true} |
    And a daemon in front of a fake engine
    And the fake engine's script is
      """
      {"tokens": 3, "match": "haiku"}
      """
    When I submit task "old"
    And I follow task "old"
    Then stream "old" ends with end
    When I stop the daemon
    And I start the daemon again
    Then the metrics have
      | llorch_ledger_ops_total{op="forget"}        | 1 |
      | llorch_artifacts_stored_total{kind="proof"} | 1 |
    When I send GET "/v1/tasks/{old}"
    Then the answer is 404
    When I get the proof of task "old"
    Then the answer is 200
    And its body has
      | outcome | completed |
