package catalog
import ("testing";"runtime";"strings";"time")
func TestZZMem(t *testing.T){
 for _, in := range []string{"x: ["+strings.Repeat("1,",1<<20)+"1]", "x: ["+strings.Repeat("1,",1<<17)+"1]", strings.Repeat("- 1\n",1<<19), strings.Repeat("-\n",1<<20), "x: "+strings.Repeat("[],",1), "x: ["+strings.Repeat("[],",1<<19)+"]", "x: {"+strings.Repeat("? , ",1<<18)+"}", "x: |\n"+strings.Repeat("  a,b:c,d [1,2]\n",1<<17), strings.Repeat("a\n",1<<20), "x: ["+strings.Repeat("?,",1<<20)+"]","x: ["+strings.Repeat("*a,",1<<19)+"]"} {
  var a,b runtime.MemStats
  runtime.GC(); runtime.ReadMemStats(&a); t0:=time.Now()
  _,_,err:=parse([]byte(in),accepted(DefaultConfig().Kinds),nil)
  runtime.ReadMemStats(&b)
  t.Logf("%.10q %d bytes: %d MiB alloc, %v, sys %d MiB, err %v", in[:10], len(in), (b.TotalAlloc-a.TotalAlloc)>>20, time.Since(t0), b.Sys>>20, err)
 }
}
