;; Answers bytes that are not UTF-8: half of a surrogate pair.
(data (i32.const 0x700) "\ed\a0\80")
(func $forward (param $table i32) (param $length i32) (param $rows i32) (param $count i32) (result i32)
  (call $text (i32.const 0x700) (i32.const 3))
  (call $answer (local.get $count) (i32.const 0) (global.get $values) (i32.const 2)))
